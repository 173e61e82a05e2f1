"""Two numbers that look like reasons not to trust a model, and why they are none.

The growth of ‖Φ_H‖ and an error above the validity radius of the expansion in errors of
the latent state (docs/theory-imagination.md). With the obvious limits, 1 for both, this
counts how often each would speak against a model that is *right*. A limit is honest
only if that is rare for every kind of system: the truth may itself amplify errors, and
where the return hardly depends on them the expansion holds nowhere.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from benchmarks.measure.tables import text_table
from benchmarks.trust.known.measure import Case
from benchmarks.trust.latent_errors.latent_noise import GRID
from core.smoothness import growth
from core.theory.attribution import System
from core.theory.perturbation import Expansion, expansion_terms

STATES, PAIRS = 16, 1
BURN_IN = 8
"""Steps before the states at which the numbers are taken."""
LIMIT = 1.0
HONEST = 0.1
"""The largest share of right models that a reason may speak against."""
NAMES = ("growth", "radius")


class Numbers(NamedTuple):
    """Of one model.

    Attributes:
        growth: median over states of ‖Φ_H‖_F/√n, in the model under the policy.
        error: root mean square of the model's one-step error of an entry, with noise.
        radius: largest σ of `GRID` for which the expansion holds; 0 for none.
    """

    growth: float
    error: float
    radius: float

    @property
    def speaks(self) -> dict[str, bool]:
        """Whether each would, with the limit 1."""
        return {
            "growth": self.growth > LIMIT,
            "radius": self.error > LIMIT * self.radius,
        }


def expanding(
    build: Callable[[PRNGKeyArray, Array], Case], factor: float
) -> Callable[[PRNGKeyArray, Array], Case]:
    """The same systems, with a next state that is `factor` times as large."""

    def built(key: PRNGKeyArray, sizes: Array) -> Case:
        case = build(key, sizes)
        more = lambda system: system._replace(
            dynamics=lambda s, a: factor * system.dynamics(s, a)
        )
        return case._replace(true=more(case.true), model=more(case.model))

    return built


def make_numbers(
    build: Callable[[PRNGKeyArray, Array], Case], *, steps: int, noise: float
) -> Callable[[PRNGKeyArray, Array], Numbers]:
    """A function `(key, sizes) ↦ Numbers`, compiled once for all draws.

    Args:
        build: see `known.measure.make_measure_known`.
        steps: H.
        noise: of the next state, in truth and model.
    """
    run = jax.jit(partial(_measure, build, steps=steps))

    def numbers(key: PRNGKeyArray, sizes: Array) -> Numbers:
        grown, error, terms, realized = jax.device_get(run(key, sizes))
        by_size = dict(zip(GRID, realized, strict=True))
        expansion = Expansion(*terms, realized=lambda eps: by_size[eps])
        both = float(np.sqrt(error**2 + 2 * noise**2))
        return Numbers(float(grown), both, expansion.check(GRID).eps_valid)

    return numbers


def _measure(
    build: Callable[[PRNGKeyArray, Array], Case],
    key: PRNGKeyArray,
    sizes: Array,
    *,
    steps: int,
) -> tuple[Array, Array, tuple[Array, ...], Array]:
    case = build(key, sizes)
    true, model, policy, starts = case
    closed = lambda system, s: system.dynamics(s, policy(s))

    def burn(s: Array) -> Array:
        advance = lambda s, _: (closed(true, s), None)
        return jax.lax.scan(advance, s, length=BURN_IN)[0]

    states = jax.vmap(burn)(starts[:STATES])
    probes = states.shape[-1]
    grown = jax.vmap(
        lambda s: growth(
            lambda s, _: closed(model, s),
            s,
            jnp.arange(steps),
            key=key,
            probes=probes,
        ).average[-1]
    )(states)
    wrong = jax.vmap(lambda s: closed(true, s) - closed(model, s))(states)
    expansion = _expansion(model, policy, states, steps, key)
    terms = tuple(
        getattr(expansion, name)
        for name in ("base", "p", "p_tilde", "q", "s", "q_tilde", "s_tilde")
    )
    realized = jnp.stack([expansion.realized(sigma) for sigma in GRID])
    return jnp.median(grown), jnp.sqrt(jnp.mean(wrong**2)), terms, realized


def _expansion(
    model: System,
    policy: Callable[[Array], Array],
    states: Float[Array, "n state"],
    steps: int,
    key: PRNGKeyArray,
) -> Expansion:
    """As `latent_noise` does for an agent: N(0, σ²) on the state in every step."""
    n, size = states.shape
    noise = jax.random.normal(key, (n, PAIRS, steps, size))
    noise = jnp.stack([noise, -noise], axis=1).reshape(-1, steps, size)
    start = jnp.repeat(states, 2 * PAIRS, axis=0)
    more = jnp.zeros((len(start), 1)), jnp.ones((len(start), 1))

    def step(x: Array, _: Array) -> Array:
        s, total, weight = x[:size], x[size], x[size + 1]
        action = policy(s)
        total = total + weight * model.reward(s, action)
        weight = weight * model.discount(s, action)
        return jnp.concatenate([model.dynamics(s, action), jnp.stack([total, weight])])

    return expansion_terms(
        step,
        lambda x: x[size] + x[size + 1] * model.value(x[:size]),
        jnp.concatenate([start, *more], axis=-1),
        noise,
        diffusion_error=lambda _, w: jnp.concatenate([w, jnp.zeros(2)]),
    )


def rates(
    numbers: Callable[[PRNGKeyArray, Array], Numbers],
    draws: int,
    size: float,
) -> dict[str, Any]:
    """How often each number would speak, with an error of the dynamics of a size."""
    found = [
        numbers(jax.random.key(draw), jnp.asarray([0.0, size, 0.0, 0.0]))
        for draw in range(draws)
    ]
    return {
        "size": size,
        "growth": float(np.median([each.growth for each in found])),
        "error": float(np.median([each.error for each in found])),
        "radius": float(np.median([each.radius for each in found])),
        "rates": {
            name: float(np.mean([each.speaks[name] for each in found]))
            for name in NAMES
        },
    }


def honest(rows: list[dict[str, Any]]) -> dict[str, bool]:
    """Whether each speaks rarely against right models of every kind of system."""
    return {
        name: all(row["rates"][name] <= HONEST for row in rows if row["size"] == 0)
        for name in NAMES
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rates, and what follows for the report."""
    head = ["system", "dynamics error", "‖Φ_H‖_F/√n", "one-step error", "radius"]
    body = [
        [row["system"], f"{row['size']:g}"]
        + [f"{row[name]:.2g}" for name in ("growth", "error", "radius")]
        + [f"{row['rates'][name]:.0%}" for name in NAMES]
        for row in rows
    ]
    fine = honest(rows)
    refused = [
        f"{words}: speaks against right models; no flag"
        if not fine[name]
        else f"{words}: rare among right models of these systems"
        for name, words in {
            "growth": "growth above 1",
            "radius": "error above the validity radius",
        }.items()
    ]
    shown = text_table([*head, "growth > 1", "error > radius"], body, left=1)
    return "\n".join([shown, *refused])
