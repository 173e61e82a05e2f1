"""How far apart an error of z at the start drives two rollouts (Theorem 4.1), and Φ.

The Jacobian-regularization paper's Theorem 4.1 is about d = E sup_t ‖x^ε_t − x⁰_t‖² of
two rollouts with the same noise, from z_0 + ε and z_0; its inequality (18) about the
growth of Φ_t. Both in their corrected forms (`core.theory.divergence`, `.flow`), for
the closed loop of a trained model, whose step is x ↦ F(x): dt = 1 and J_0 = J_F − I.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from core.agent import Agent
from core.smoothness import closed_loop, growth, spectral_norm
from core.states import State

GRID = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
ERRORS = 4  # at each state
STATES = 16
"""States for Φ and its bound: the first ones."""
PROBES = 8

Step = Callable[[Array, Array], Array]


def initial_error(
    agent: Agent,
    features: Float[Array, "n features"],
    *,
    steps: int,
    key: PRNGKeyArray,
) -> dict[str, Any]:
    """The divergence of rollouts under the policy's mean action, and the growth of Φ.

    ε is N(0, σ²) on every entry of z, and t goes from 1: at 0 the distance is ‖ε‖. The
    `mean field` step has z' = E p(ẑ'|h'); the `sampled` one draws ẑ', in both rollouts
    with the same random numbers.

    Returns:
        `d`: d/E‖ε‖² of both steps for each σ of `sigma`. It is constant for small σ
        where the step is smooth; where a small error flips the class of a z that is
        drawn, it falls as 1/σ. `first order`: its limit for the mean field, by jvp;
        `flow`: E‖Φ_T‖_F²; `flow bound, log10`: of the corrected (18), n·(1 + rate)^T
        with `rate` the largest ‖J_F‖₂² − 1 of the visited states (from a power
        iteration: a lower bound). A logarithm, as the bound may exceed every
        floating-point number; None if the norm is 0, and so is the bound.
    """
    seen = jax.device_get(_measure(agent, features, key, steps=steps))
    ratios = {name: np.asarray(x, np.float64) for name, x in seen["d"].items()}
    size = features.shape[-1]
    largest = float(seen["norm"])
    return {
        "steps": steps,
        "sigma": list(GRID),
        "d": {name: d.tolist() for name, d in ratios.items()},
        "first order": float(seen["first order"]),
        "flow": float(seen["flow"]),
        "rate": largest**2 - 1,
        "flow bound, log10": log_bound(largest, size=size, steps=steps),
    }


def log_bound(largest: float, *, size: int, steps: int) -> float | None:
    """log10 of n·‖J_F‖₂^(2T), which is (18) with dt = 1; None if the norm is 0."""
    if largest == 0:
        return None
    return float(np.log10(size) + 2 * steps * np.log10(largest))


@partial(jax.jit, static_argnames="steps")
def _measure(
    agent: Agent, features: Array, key: PRNGKeyArray, *, steps: int
) -> dict[str, Any]:
    rssm = agent.model.rssm
    error_key, draw_key, flow_key = jax.random.split(key, 3)
    starts = jnp.repeat(features, ERRORS, axis=0)
    n, size = starts.shape
    noise = jax.random.normal(error_key, (n, size - rssm.deter))
    errors = jnp.pad(noise, ((0, 0), (rssm.deter, 0)))
    square = jnp.mean(jnp.sum(jnp.square(errors), axis=-1))
    uniforms = jax.random.uniform(draw_key, (n, steps, rssm.categoricals))

    def mean_field(x: Array, _: Array) -> Array:
        return closed_loop(agent, x)

    def sampled(x: Array, uniform: Array) -> Array:
        action = agent.policy(x).mode()
        h = rssm.recurrent(rssm.state(x), action)
        return State(h, rssm.sample(rssm.prior_logits(h), uniform)).features

    def ratios(step: Step) -> Array:
        def at(scale: Array) -> Array:
            apart = jax.vmap(_divergence(step), (None, 0, 0, 0))
            return jnp.mean(apart(scale, starts, errors, uniforms)) / scale**2

        return jax.lax.map(at, jnp.asarray(GRID)) / square

    def flow(x: Array, key: Array) -> tuple[Array, Array]:
        inputs = jnp.arange(steps)
        grown = growth(mean_field, x, inputs, key=key, probes=PROBES)
        visited = jnp.concatenate([x[None], grown.states[:-1]])
        norm = lambda x: spectral_norm(lambda y: closed_loop(agent, y), x, key=key).norm
        return size * grown.average[-1] ** 2, jnp.max(jax.vmap(norm)(visited))

    some = features[:STATES]
    squares, norms = jax.vmap(flow)(some, jax.random.split(flow_key, len(some)))
    first = jax.vmap(_first_order(mean_field))(starts, errors, uniforms)
    return {
        "d": {"mean field": ratios(mean_field), "sampled": ratios(sampled)},
        "first order": jnp.mean(first) / square,
        "flow": jnp.mean(squares),
        "norm": jnp.max(norms),
    }


def _divergence(step: Step) -> Callable[[Array, Array, Array, Array], Array]:
    """sup_t ‖x^ε_t − x⁰_t‖² of one pair of rollouts."""

    def apart(scale: Array, x: Array, error: Array, rows: Array) -> Array:
        def advance(pair: tuple[Array, Array], row: Array):
            pair = step(pair[0], row), step(pair[1], row)
            return pair, jnp.sum(jnp.square(pair[0] - pair[1]))

        return jnp.max(jax.lax.scan(advance, (x + scale * error, x), rows)[1])

    return apart


def _first_order(step: Step) -> Callable[[Array, Array, Array], Array]:
    """sup_t ‖Φ_t ε‖² of one rollout."""

    def at(x: Array, error: Array, rows: Array) -> Array:
        def rollout(x: Array) -> Array:
            def advance(x: Array, row: Array) -> tuple[Array, Array]:
                x = step(x, row)
                return x, x

            return jax.lax.scan(advance, x, rows)[1]

        _, moved = jax.jvp(rollout, (x,), (error,))
        return jnp.max(jnp.sum(jnp.square(moved), axis=-1))

    return at
