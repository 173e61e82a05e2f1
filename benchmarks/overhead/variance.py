"""Variance of the penalty's gradient by family of probes.

    python -m benchmarks.overhead --variance [--run DIR] [--json OUT] [--png OUT]

The gradient of the penalty varies with the minibatch, the states subsampled from it
and the probes. More probes pay off only if their noise is not negligible against
the minibatch noise, which they cannot reduce. For gradients with respect to encoder and
RSSM,

    minibatch noise   tr Cov over batches of the exact penalty's gradient
    probe noise       mean over batches of E‖g(probes) − g(exact)‖²

and the same with every coordinate divided by the second moment of the total gradient,
as the optimizer does. Batches are the agent's own experience.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray
from matplotlib.figure import Figure

import envs
from benchmarks.measure.tables import text_table
from core.agent import Agent
from core.penalty import PenaltyOptions, dynamics_penalty
from core.rssm import State
from core.transition import Transition
from core.world_model import WorldModel
from train.config import Config
from train.preflight.setup import make_env
from train.program.chunk import draw_batch
from train.program.collect import collect
from train.program.state import compute_dtype, init_learner, init_run
from train.program.update import UpdateOptions, total_loss

EXACT = PenaltyOptions(rho=1.0, probe_kind="exact")


class Noise(NamedTuple):
    """One family's probe noise.

    Attributes:
        over_minibatch: probe noise / minibatch noise of the penalty's gradient.
        added: relative increase of the variance of the total gradient (loss plus λ0
            times the penalty), with coordinates weighted as in the optimizer.
    """

    over_minibatch: float
    added: float


class Findings(NamedTuple):
    """The results for one agent.

    Attributes:
        noise: by family of probes.
        signal: squared norm of the penalty's mean gradient / its minibatch noise.
        entropy: mean entropy of the posterior's categoricals / log C.
    """

    noise: dict[PenaltyOptions, Noise]
    signal: float
    entropy: float


def families(classes: int, *, quick: bool) -> list[PenaltyOptions]:
    """The probe kinds and counts possible with `classes` classes."""
    if quick:
        return [PenaltyOptions(rho=rho, probes=1) for rho in (0.5, 1.0)]
    rows = []
    for rho in (0.5, 1.0):
        for probes in (1, 2, 4, 8):
            rows.append(PenaltyOptions(rho=rho, probes=probes))
            if probes < classes - 1:
                rows.append(
                    PenaltyOptions(rho=rho, probe_kind="hadamard", probes=probes)
                )
    return [*rows, PenaltyOptions(rho=0.5, probe_kind="exact")]


def measure(
    config: Config,
    agent: Agent,
    *,
    batches: int,
    draws: int,
    quick: bool = False,
    say: Callable[[str], None],
) -> Findings:
    """The noise of every family over `batches` batches, `draws` probe draws each."""
    dtype = compute_dtype(config, jax.default_backend())
    env = envs.VectorEnv(make_env(config), 1)
    learner = jax.jit(lambda key: init_learner(config, env, key))(jax.random.key(0))
    learner = learner._replace(agent=agent, slow_value=agent.value)
    data = jax.jit(lambda key: experience(config, agent, batches, dtype, key))(
        jax.random.key(config.seed)
    )
    keys = jax.random.split(jax.random.key(1), batches)

    def penalty_gradient(options, initial, batch, observe_key, key):
        def value(model):
            embeds = model.encoder(batch.obs)
            _, observed = model.rssm.observe(
                initial, embeds, batch.action, batch.is_first, key=observe_key
            )
            terms = dynamics_penalty(
                model.rssm, observed, embeds, batch, key=key, options=options
            )
            probs = model.rssm.dist(observed.posterior)
            return terms["posterior"], jnp.mean(probs.entropy())

        gradient, entropy = jax.grad(value, has_aux=True)(agent.model)
        return dynamics_part(gradient), entropy

    def loss_gradient(initial, batch, key):
        def value(agent):
            current = learner._replace(agent=agent)
            plain = UpdateOptions(None, dtype)
            found = total_loss(config, current, initial, batch, key=key, options=plain)
            return found[0]

        return dynamics_part(jax.grad(value)(agent).model)

    each = lambda fn: jax.jit(lambda *xs: jax.lax.map(lambda x: fn(*x), xs))
    say("the loss's gradient")
    loss = each(loss_gradient)(*data, keys)
    say("the exact penalty's gradient")
    exact, entropy = each(
        lambda initial, batch, key: penalty_gradient(EXACT, initial, batch, key, key)
    )(*data, keys)
    total = loss + config.penalty.lambda0 * exact
    weight = 1.0 / (jnp.mean(jnp.square(total), axis=0) + 1e-20)
    minibatch, whole = spread(exact), spread(total, weight)
    mean = jnp.mean(exact, axis=0)
    # Subtract the bias of ‖mean‖² from a finite number of batches.
    signal = float((jnp.sum(mean**2) - minibatch / batches) / minibatch)

    noise = {}
    every = families(config.model.classes, quick=quick)
    for number, options in enumerate(every):
        say(f"family {number + 1}/{len(every)}")

        def error(initial, batch, key, exact, options=options):
            def one(draw):
                gradient, _ = penalty_gradient(options, initial, batch, key, draw)
                square = jnp.square(gradient - exact)
                return jnp.sum(square), jnp.sum(square * weight)

            found = jax.lax.map(one, jax.random.split(key, draws))
            return jax.tree.map(jnp.mean, found)

        plain, weighted = jax.tree.map(jnp.mean, each(error)(*data, keys, exact))
        noise[options] = Noise(
            float(plain / minibatch),
            float(config.penalty.lambda0**2 * weighted / whole),
        )
    share = jnp.mean(entropy) / (config.model.stoch * jnp.log(config.model.classes))
    return Findings(noise, signal, float(share))


def dynamics_part(gradient: WorldModel) -> Float[Array, " n"]:
    """The gradient of encoder and RSSM, which the penalty acts on, as one vector."""
    return ravel_pytree((gradient.encoder, gradient.rssm))[0]


def spread(
    gradients: Float[Array, "batches n"], weight: Float[Array, " n"] | None = None
) -> Float[Array, ""]:
    """Trace of the covariance over batches, with weighted coordinates."""
    centred = gradients - jnp.mean(gradients, axis=0, keepdims=True)
    variance = jnp.sum(jnp.square(centred), axis=0) / (gradients.shape[0] - 1)
    return jnp.sum(variance if weight is None else variance * weight)


def experience(
    config: Config, agent: Agent, batches: int, dtype: jnp.dtype, key: PRNGKeyArray
) -> tuple[State, Transition]:
    """`batches` batches of experience collected by the agent."""
    env = envs.VectorEnv(make_env(config), config.num_envs)
    run = init_run(config, env, key)
    run = run._replace(learner=run.learner._replace(agent=agent))
    rows = run.replay.rows.reward.shape[0]
    carry, keys = (run.collector, run.replay), jax.random.split(key, rows)
    (_, buffer), _ = collect(config, env, agent, carry, keys)

    def one(key: PRNGKeyArray) -> tuple[State, Transition]:
        rssm = agent.model.rssm
        initial, batch, _ = draw_batch(config, rssm, buffer, dtype=dtype, key=key)
        return initial, batch

    return jax.lax.map(one, jax.random.split(key, batches))


def table(found: dict[str, Findings]) -> str:
    """The families as text, one block per agent."""
    lines = []
    for weights, findings in found.items():
        lines += [
            f"{weights} weights: posterior entropy {findings.entropy:.2f} of log C; "
            f"penalty gradient ‖mean‖² / minibatch noise {findings.signal:.2f}",
            text_table(
                ["", "probe / minibatch noise", "added variance"],
                [
                    [
                        label(family),
                        f"{noise.over_minibatch:.3f}",
                        f"{100 * noise.added:.2f}%",
                    ]
                    for family, noise in findings.noise.items()
                ],
            ),
        ]
        lines.append("")
    return "\n".join(lines)


def label(family: PenaltyOptions) -> str:
    """A family as text."""
    count = "" if family.probes is None else f"{family.probes} "
    return f"rho {family.rho:g}, {count}{family.probe_kind}"


def draw(found: dict[str, Findings]) -> Figure:
    """Probe noise against the number of probes, one panel per agent."""
    figure = Figure(figsize=(5 * len(found), 4.2), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    colours = {"rademacher": "C0", "hadamard": "C1", "exact": "C2"}
    for axes, (weights, findings) in zip(panels, found.items(), strict=True):
        lines: dict[tuple[str, float], list[tuple[int, float]]] = {}
        for family, noise in findings.noise.items():
            kind, rho = family.probe_kind, family.rho
            if family.probes is None:
                axes.axhline(
                    noise.over_minibatch,
                    color=colours[kind],
                    linestyle="--",
                    label=f"exact, ρ = {rho:g}",
                )
                continue
            points = lines.setdefault((kind, rho), [])
            points.append((family.probes, noise.over_minibatch))
        for (kind, rho), points in lines.items():
            axes.plot(
                *zip(*points, strict=True),
                color=colours[kind],
                linestyle="-" if rho == 1.0 else "--",
                marker="o",
                label=f"{kind}, ρ = {rho:g}",
            )
        axes.axhline(1.0, color="0.6", linewidth=0.8)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
        axes.set_xlabel("probes per row")
        axes.set_title(f"{weights} weights")
    panels[0].set_ylabel("probe noise / minibatch noise")
    panels[0].legend(fontsize="small")
    return figure


def record(config: Config, found: dict[str, Findings]) -> dict[str, Any]:
    """The result file's content."""
    rows = [
        {
            "weights": weights,
            "rho": family.rho,
            "probe_kind": family.probe_kind,
            "probes": family.probes,
            **noise._asdict(),
        }
        for weights, findings in found.items()
        for family, noise in findings.noise.items()
    ]
    agents = {
        weights: {"signal": findings.signal, "entropy": findings.entropy}
        for weights, findings in found.items()
    }
    return {
        "env": config.env,
        "size": config.size,
        "batch_size": config.batch_size,
        "batch_length": config.batch_length,
        "lambda0": config.penalty.lambda0,
        "agents": agents,
        "rows": rows,
    }
