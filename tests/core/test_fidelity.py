"""Every loss and gradient equals the authors' own (docs/fidelity.md).

tests/fixtures has what their code computes at a tiny size, with the random numbers that
it drew: these take the place of ours, and nothing else is replaced.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import authors
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from authors import Fixture

from core import penalty as penalty_module
from core.agent import Agent
from core.behavior import actor_critic, imagination
from core.networks.decoder import VectorDecoder
from core.networks.transforms import symlog
from core.transition import Transition
from kernels import api, reference
from kernels.gram import two_layers
from kernels.probes import sample_probes
from train.config.cli import parse
from train.program import update as update_module
from train.program.penalty import choose_penalty
from train.program.state import Learner

pytestmark = pytest.mark.usefixtures("quick_compiles")

# Of each array's norm. float32 keeps 6e-8.
TOLERANCE = 1e-5
LOSSES = ("rec", "rew", "con", "dyn", "rep", "policy", "value", "repval")
PENALTIES = {"none": (), "posterior": ("posterior",), "both": ("posterior", "prior")}
FLAGS = {
    "none": ["--penalty", "none"],
    "posterior": ["--rho", "0.5"],
    "both": ["--rho", "0.4", "--penalty-target", "both", "--lambda0-prior", "0.25"],
}

Numbers = Mapping[str, Any]


class Watch:
    """Keeps what functions return on the way to the total loss.

    Each loss is multiplied by the factor of its name on the way.
    """

    def __init__(self, patch: pytest.MonkeyPatch):
        self.seen: dict[str, list[Any]] = {}
        self.factors: Numbers = {}
        for name in ("world_model_loss", "imagine", "imagined_loss"):
            self.watch(patch, update_module, name)
        for name in ("replayed_value_loss", "dynamics_penalty", "penalty_coefficient"):
            self.watch(patch, update_module, name)
        self.watch(patch, actor_critic, "lambda_return")

    def watch(self, patch: pytest.MonkeyPatch, module: Any, name: str) -> None:
        original = getattr(module, name)

        def watched(*args: Any, **options: Any) -> Any:
            result = self.scaled(name, original(*args, **options))
            self.seen.setdefault(name, []).append(result)
            return result

        patch.setattr(module, name, watched)

    def scaled(self, name: str, result: Any) -> Any:
        if name == "replayed_value_loss":
            return result * self.factors["repval"]
        if name == "dynamics_penalty":
            return {n: x * self.factors[f"{n} penalty"] for n, x in result.items()}
        if hasattr(result, "losses"):
            losses = {n: x * self.factors[n] for n, x in result.losses.items()}
            return result._replace(losses=losses)
        return result


def draw_as_they_did(patch: pytest.MonkeyPatch, fixture: Fixture) -> None:
    """Put the authors' random numbers in the place of ours."""
    numbers = {name: jnp.asarray(x) for name, x in fixture.group("rng").items()}

    def uniform(key: Any, shape: tuple[int, ...]) -> Any:
        assert shape == numbers["obs_u"].shape
        return numbers["obs_u"]

    def rollout(key: Any, noise: tuple[int, ...], u: tuple[int, ...], dtype: Any):
        assert (noise, u) == (numbers["noise"].shape, numbers["u"].shape)
        return numbers["noise"], numbers["u"]

    patch.setattr(jax.random, "uniform", uniform)
    patch.setattr(imagination, "random_numbers", rollout)
    if "probes" not in numbers:
        return
    indices = jnp.asarray(fixture.group("aux")["gp/indices"])

    def states(key: Any, total: int, rho: float) -> Any:
        assert int(rho * total) == len(indices)
        return indices

    patch.setattr(penalty_module, "sample_states", states)

    def probes(name: str) -> Callable[..., Any]:
        """Theirs for the penalty; for the exact norm, which is only logged, ours."""
        wanted = numbers.get(name, jnp.zeros(0))[None]
        return lambda key, *, kind, **options: (
            sample_probes(key, kind=kind, **options) if kind == "exact" else wanted
        )

    # The posterior's are drawn in the one module, the prior's in the other.
    patch.setattr(api, "sample_probes", probes("probes"))
    for module in (reference, two_layers):
        patch.setattr(module, "sample_probes", probes("probes_prior"))


def seen_inside(
    seen: Mapping[str, list[Any]], agent: Agent, batch: Transition, total: Any
) -> Numbers:
    """What `total_loss` computed on the way, laid out as `authors.results`."""
    (world,), (imagined,), (ac,) = (
        seen[name] for name in ("world_model_loss", "imagine", "imagined_loss")
    )
    imagined_return, replayed_return = seen["lambda_return"]
    states, policy = world.observed.states, imagined.policy
    low, high = ac.return_scale
    time_first = {
        "latent/embedding": world.embeds,
        "latent/h": states.deter,
        "latent/z": states.stoch,
        "latent/posterior logits": world.observed.posterior,
        "latent/prior logits": agent.model.rssm.prior_logits(states.deter),
        "imagined/action": imagined.action,
        "imagined/mean": policy.mean,
        "imagined/stddev": policy.stddev,
        "imagined/log-probability": policy.log_prob(imagined.action),
        "imagined/entropy": policy.entropy(),
        "imagined/reward": imagined.reward,
        "imagined/continue": imagined.cont,
        "imagined/value": imagined.estimate,
        "imagined/slow value": imagined.slow,
        "return/imagined": imagined_return,
        "return/replayed": replayed_return,
    }
    time_first |= {f"loss/{name}": x for name, x in world.losses.items()}
    # Our reconstruction loss is one sum over all entries of the observation.
    decoder, entries = agent.model.decoder, authors.ENTRIES
    assert isinstance(decoder, VectorDecoder)
    predicted = decoder.out(decoder.mlp(states.features))
    error = jnp.square(predicted - symlog(batch.obs))
    parts = jnp.split(error, np.cumsum(list(entries.values()))[:-1], axis=-1)
    for name, part in zip(entries, parts, strict=True):
        time_first[f"reconstruction/{name}"] = jnp.sum(part, axis=-1)
    scalars = {
        "latent/posterior entropy": world.entropies["posterior"],
        "latent/prior entropy": world.entropies["prior"],
        "return/5th percentile": low,
        "return/95th percentile": high,
        "return/scale": ac.metrics["return_scale"],
        "return/mean advantage": ac.metrics["advantage_abs"],
        "loss/policy": ac.losses["policy"],
        "loss/value": ac.losses["value"],
        "loss/repval": seen["replayed_value_loss"][0],
        "loss/total": total,
    }
    if "dynamics_penalty" in seen:
        terms, coefficients = seen["dynamics_penalty"][0], seen["penalty_coefficient"]
        for (name, value), coefficient in zip(terms.items(), coefficients, strict=True):
            scalars[f"loss/{name} penalty"] = value
            scalars[f"loss/{name} lambda"] = coefficient
    swapped = {name: jnp.swapaxes(x, 0, 1) for name, x in time_first.items()}
    return swapped | scalars


@functools.cache
def compiled(
    case: str, implementation: str, heads_at_once: bool, *flags: str
) -> Callable[[Numbers], tuple[Numbers, Numbers]]:
    """A function of the losses' factors: all that is compared, and the gradients."""
    fixture = Fixture(case)
    words = ["--preset", "gpld", "--imagination-length", str(authors.IMAGINED)]
    if case != "none":
        words += ["--penalty", implementation]
    config = parse([*words, *FLAGS[case], *flags], "cpu")
    agent = authors.agent(fixture, unimix=config.loss.unimix)
    zero = jnp.zeros((), jnp.int32)
    learner = Learner(
        agent,
        authors.slow_value(fixture),
        (),
        authors.return_scale(fixture),
        *(zero, zero, zero),
    )
    initial, batch = authors.batch(fixture)

    with pytest.MonkeyPatch.context() as patch:
        watch = Watch(patch)
        draw_as_they_did(patch, fixture)

        def loss(agent: Agent, factors: Numbers) -> tuple[Any, Numbers]:
            watch.seen.clear()
            watch.factors = factors
            total, _ = update_module.total_loss(
                config,
                learner._replace(agent=agent),
                initial,
                batch,
                key=jax.random.key(0),
                options=update_module.UpdateOptions(
                    choose_penalty(config, "cpu").options,
                    jnp.dtype("float32"),
                    heads_at_once,
                ),
            )
            return total, seen_inside(watch.seen, agent, batch, total)

        gradient = jax.jit(jax.grad(loss, has_aux=True))
        with jax.default_matmul_precision("highest"):
            traced = gradient.lower(agent, factors(case))
    # Most of the time is LLVM's; what XLA fuses stays the same.
    program = traced.compile({"xla_backend_optimization_level": 0})

    def run(factors: Numbers) -> tuple[Numbers, Numbers]:
        gradients, seen = program(agent, factors)
        return jax.device_get(seen), authors.by_path(gradients)

    return run


def factors(case: str, **changed: float) -> dict[str, np.float32]:
    """The factor of every loss of a case: 1, but for those that are named."""
    names = LOSSES + tuple(f"{target} penalty" for target in PENALTIES[case])
    assert set(changed) <= set(names)
    return {name: np.float32(changed.get(name, 1.0)) for name in names}


def errors(found: tuple[Numbers, Numbers], case: str) -> dict[str, float]:
    """Norm of the difference from the authors' array, over the norm of theirs."""
    fixture = Fixture(case)
    wanted = authors.results(fixture)
    theirs = authors.by_our_names(fixture.group("grad"))
    wanted |= {f"gradient/{name}": x for name, x in theirs.items()}
    seen, gradients = found
    ours = {**seen, **{f"gradient/{name}": x for name, x in gradients.items()}}
    assert ours.keys() == wanted.keys()
    result = {}
    for name, x in wanted.items():
        assert ours[name].shape == x.shape, name
        norm = np.linalg.norm(np.ravel(x))
        assert norm > 0, name
        result[name] = float(np.linalg.norm(np.ravel(ours[name] - x)) / norm)
    return result


def wrong(found: tuple[Numbers, Numbers], case: str) -> dict[str, float]:
    return {n: e for n, e in errors(found, case).items() if not e < TOLERANCE}


slow = pytest.mark.slow  # each compiles a program of its own


@pytest.mark.parametrize(
    ("case", "implementation", "heads_at_once"),
    [
        pytest.param("none", "xla", False, marks=pytest.mark.long),
        ("posterior", "xla", True),
        pytest.param("both", "xla", False, marks=pytest.mark.long),
        pytest.param("both", "reference", True, marks=pytest.mark.long),
        pytest.param("none", "xla", True, marks=slow),
        pytest.param("posterior", "xla", False, marks=slow),
        pytest.param("posterior", "reference", False, marks=slow),
        pytest.param("posterior", "reference", True, marks=slow),
        pytest.param("both", "xla", True, marks=slow),
        pytest.param("both", "reference", False, marks=slow),
    ],
)
def test_everything_equals_the_authors_numbers(
    case, implementation, heads_at_once, record_property
):
    found = compiled(case, implementation, heads_at_once)(factors(case))
    largest: dict[str, float] = {}
    for name, error in errors(found, case).items():
        group = name.partition("/")[0]
        largest[group] = max(largest.get(group, 0.0), error)
    for group, error in largest.items():
        record_property(group, error)  # `--record` writes it down
    assert not wrong(found, case)


@pytest.mark.long
@pytest.mark.parametrize("name", factors("both"))
def test_a_loss_that_is_off_by_a_thousandth_is_found(name):
    found = compiled("both", "xla", False)(factors("both", **{name: 1.001}))
    off = wrong(found, "both")
    assert off[f"loss/{name}"] == pytest.approx(1e-3, rel=0.02)
    assert any(n.startswith("gradient/") for n in off), off


@slow
@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (("--unimix", "0.011"), "latent/posterior entropy"),
        (("--return-lambda", "0.951"), "return/imagined"),
        (("--entropy", "4e-4"), "loss/policy"),
        (("--lambda0", "0.501"), "loss/posterior lambda"),
    ],
)
def test_a_changed_constant_is_found(flags, what):
    off = wrong(compiled("both", "xla", False, *flags)(factors("both")), "both")
    assert what in off
    assert any(n.startswith("gradient/") for n in off), off
