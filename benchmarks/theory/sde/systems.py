"""Test systems for the SDE paper's expansion."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from core.theory.perturbation import Check, Estimate
from core.theory.perturbation_printed import printed_terms, without_half
from core.theory.sde import EulerMaruyama, brownian

DURATION = 1.0


class System(NamedTuple):
    """An SDE with its errors, a loss of the final state, and the initial state."""

    build: Callable[[float], EulerMaruyama]
    loss: Callable[[Array], Array]
    start: tuple[float, ...]
    noises: int
    about: str


class Outcome(NamedTuple):
    """The terms of one system, and the remainders of three predictions.

    Attributes:
        terms: P, P̃, Q, S, Q̃, S̃ as (mean, standard error).
        checks: of the corrected expansion, of the same with the ½ missing (error 1),
            and of the paper's own formulas.
    """

    terms: dict[str, Estimate]
    checks: dict[str, Check]


def _gbm(dt: float) -> EulerMaruyama:
    return EulerMaruyama(
        lambda x: 0.3 * x,
        lambda x: 0.5 * x[:, None],
        dt,
        lambda x: 0.5 * x,
        lambda x: x[:, None],
    )


def _ou(dt: float) -> EulerMaruyama:
    return EulerMaruyama(
        lambda x: -1.5 * x,
        lambda x: jnp.full((1, 1), 0.6, x.dtype),
        dt,
        lambda x: jnp.full_like(x, 0.4),
        lambda x: jnp.ones((1, 1), x.dtype),
    )


def _planar(dt: float) -> EulerMaruyama:
    return EulerMaruyama(
        lambda x: jnp.stack([jnp.sin(x[1]) - 0.5 * x[0], -jnp.cos(x[0]) * x[1]]),
        lambda x: jnp.stack([0.6 + 0.3 * jnp.sin(x[0] + x[1]), 0.5 * x[0]])[:, None],
        dt,
        lambda x: jnp.stack([jnp.cos(x[0]), x[0] * x[1]]),
        lambda x: jnp.stack([jnp.sin(x[1]), 0.5 + 0.25 * x[0] ** 2])[:, None],
    )


def _network(gain: float) -> Callable[[float], EulerMaruyama]:
    """ẋ = 4 (tanh(gain·W x + b) − x), state-dependent noise: like a recurrent map."""
    rng = np.random.default_rng(1)
    inner = jnp.asarray(rng.normal(size=(4, 4)) / 2)
    noise = jnp.asarray(rng.normal(size=(4, 2)) / 2)
    bias = jnp.asarray(rng.normal(size=4) / 4)

    def build(dt: float) -> EulerMaruyama:
        return EulerMaruyama(
            lambda x: 4 * (jnp.tanh(gain * inner @ x + bias) - x),
            lambda x: 0.4 * noise * jnp.cos(x)[:, None],
            dt,
            lambda x: 0.3 * jnp.tanh(inner.T @ x),
            lambda x: noise * jnp.tanh(1 + inner @ x)[:, None],
        )

    return build


def _readout(x: Array) -> Array:
    return jnp.sum(jnp.tanh(2 * x - 0.5) ** 2)


SYSTEMS: dict[str, System] = {
    "geometric Brownian motion": System(_gbm, lambda x: x[0] ** 2, (1.0,), 1, "L = x²"),
    "Ornstein–Uhlenbeck": System(
        _ou, lambda x: jax.nn.softplus(2 * x[0]), (0.5,), 1, "L = softplus(2x)"
    ),
    "nonlinear, 2 states": System(
        _planar,
        lambda x: jnp.sin(x[0]) + x[0] * x[1] + jnp.exp(0.3 * x[1]),
        (0.7, 0.4),
        1,
        "L = sin x₁ + x₁x₂ + e^(0.3 x₂)",
    ),
    "network, 4 states, gain 1": System(
        _network(1.0), _readout, (0.3, -0.2, 0.5, 0.1), 2, "L = ‖tanh(2x − ½)‖²"
    ),
    "network, 4 states, gain 3": System(
        _network(3.0), _readout, (0.3, -0.2, 0.5, 0.1), 2, "L = ‖tanh(2x − ½)‖²"
    ),
}


def outcome(system: System, key: Array, *, paths: int, steps: int) -> Outcome:
    """Expand `system` and simulate it perturbed, on the same paths."""
    dt = DURATION / steps
    sde = system.build(dt)
    noise = brownian(key, paths=paths, steps=steps, size=system.noises, dt=dt)
    start = jnp.asarray(system.start)
    exact = sde.expand(system.loss, start, noise)
    paper = printed_terms(sde, system.loss, start, noise)
    grid = np.geomspace(3e-3, 1.0, 6 if steps < 30 else 11)
    checks = {
        name: expansion.check(grid.tolist())
        for name, expansion in (
            ("corrected", exact),
            ("½ missing", without_half(exact)),
            ("as printed", paper),
        )
    }
    return Outcome(exact.terms(), checks)
