"""The flow Φ of a perturbed SDE: closed form (45), bound (18), second derivatives (52).

From *Towards Unraveling and Improving Generalization in World Models*. Φ propagates a
small error through time: dΦ = ∂g_k Φ dB^k with Φ(0) = I, where k = 0 is time. For a
deterministic step x → F(x), such as a world model's recurrent map, use the drift
F(x) − x and dt = 1; then J_0 = J_F − I.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from core.theory.perturbation import Estimate, estimate, spread
from core.theory.sde import EulerMaruyama


def trajectory(
    system: EulerMaruyama, x0: Float[Array, "n"], rows: Float[Array, "time m"]
) -> Float[Array, "time+1 n"]:
    """The states of one unperturbed path, including the initial one."""

    def advance(x: Array, row: Array) -> tuple[Array, Array]:
        new = system.step(x, row)
        return new, new

    _, states = jax.lax.scan(advance, x0, rows)
    return jnp.concatenate([x0[None], states])


def trajectories(
    system: EulerMaruyama,
    x0: Float[Array, "*paths n"],
    noise: Float[Array, "paths time m"],
) -> Float[Array, "paths time+1 n"]:
    """`trajectory` of every path, from a shared or a per-path initial state."""
    run = jax.jit(jax.vmap(lambda a, b: trajectory(system, a, b)))
    return run(spread(x0, noise), noise)


def growth_rate(
    drift_jacobian: Float[Array, "n n"],
    noise_jacobians: Float[Array, "m n n"],
    dt: float = 0.0,
) -> Float[Array, ""]:
    """λ_max(J_0 + J_0ᵀ + Σ J_kᵀ J_k + dt J_0ᵀ J_0), the corrected rate of (18).

    The growth rate of E‖Φv‖² is at most this. `dt` = 0 is the SDE (Itô's formula); one
    Euler–Maruyama step of length `dt` multiplies E‖v‖² by at most 1 + dt·rate.
    """
    j0 = drift_jacobian
    rate = j0 + j0.T + dt * j0.T @ j0
    rate = rate + jnp.einsum("kij,kil->jl", noise_jacobians, noise_jacobians)
    return jnp.linalg.eigvalsh(rate)[-1]


class FlowBound(NamedTuple):
    """E‖Φ_T‖_F² and its bounds.

    Attributes:
        realized: E‖Φ_T‖_F² over the paths.
        rate: the largest `growth_rate` over paths and times. On sampled paths it
            underestimates the supremum.
        bound: n·exp(T·rate), the corrected (18).
        squares: E sup_t ‖∂g_k‖_F² for the drift and each column of the diffusion: the
            exponents of the paper's (18).
        largest_squares: the same with the supremum over paths instead of the mean.
    """

    realized: Estimate
    rate: float
    bound: float
    squares: Float[np.ndarray, "m+1"]
    largest_squares: Float[np.ndarray, "m+1"]

    def printed(self, constant: float) -> float:
        """Σ_k C exp(C E sup‖∂g_k‖_F²), the right side of (18) for a given C.

        The mean is inside the exponential, so no C makes it valid for all systems.
        """
        exponents = constant * np.asarray(self.squares)
        return float(constant * np.sum(np.exp(exponents)))


def flow_bound(
    system: EulerMaruyama,
    x0: Float[Array, "*paths n"],
    noise: Float[Array, "paths time m"],
) -> FlowBound:
    """Corrected inequality (18) on given paths: E‖Φ_T‖_F² ≤ n exp(T sup λ_max(…))."""
    steps, n = noise.shape[1], x0.shape[-1]

    def one_path(start: Array, rows: Array) -> tuple[Array, Array, Array]:
        flow = jax.jacfwd(lambda x: trajectory(system, x, rows)[-1])(start)
        before = trajectory(system, start, rows)[:-1]
        j0 = jax.vmap(jax.jacfwd(system.drift))(before)
        jk = jnp.moveaxis(jax.vmap(jax.jacfwd(system.diffusion))(before), 2, 1)
        rates = jax.vmap(lambda a, b: growth_rate(a, b, system.dt))(j0, jk)
        both = jnp.concatenate([j0[:, None], jk], axis=1)
        squares = jnp.max(jnp.sum(both**2, axis=(2, 3)), axis=0)
        return jnp.sum(flow**2), jnp.max(rates), squares

    norms, rates, squares = jax.jit(jax.vmap(one_path))(spread(x0, noise), noise)
    rate = float(jnp.max(rates))
    return FlowBound(
        realized=estimate(norms),
        rate=rate,
        bound=n * math.exp(steps * system.dt * rate),
        squares=np.asarray(jnp.mean(squares, axis=0)),
        largest_squares=np.asarray(jnp.max(squares, axis=0)),
    )


def constant_flow(
    drift_jacobian: Float[Array, "n n"],
    noise_jacobians: Float[Array, "m n n"],
    brownian_end: Float[Array, "m"],
    duration: float,
    *,
    printed: bool = False,
) -> Float[Array, "n n"]:
    """Φ_T for constant, commuting Jacobians, eq. (45).

    exp(J_0 T + Σ J_k B^k_T − ½ Σ J_k² T), k ≥ 1. `printed` uses J_k J_kᵀ instead of
    J_k², which is equal only for symmetric J_k.
    """
    square = "kij,klj->il" if printed else "kij,kjl->il"
    exponent = drift_jacobian * duration
    exponent = exponent + jnp.einsum("kij,k->ij", noise_jacobians, brownian_end)
    ito = jnp.einsum(square, noise_jacobians, noise_jacobians)
    return jax.scipy.linalg.expm(exponent - 0.5 * duration * ito)


def second_variation(
    system: EulerMaruyama,
    x0: Float[Array, "n"],
    rows: Float[Array, "time m"],
    *,
    printed: bool = False,
) -> Float[Array, "n n n"]:
    """∂²x_T/∂x0_i ∂x0_j of one path as entry [:, i, j], from its SDE, eq. (52).

    d∂²_ij x = (∂g_k ∂²_ij x + ∂²g_k[∂_i x, ∂_j x]) dB^k, starting at 0. `printed` is
    the paper's d∂²_ij x = ∂²g_k[∂_i x, ∂²_ij x] dB^k, starting at e_j. For a linear
    system it gives e_j instead of 0.
    """
    n = x0.shape[0]

    def increment(x: Array, row: Array) -> Array:
        return system.step(x, row) - x

    def along(x: Array, row: Array, *directions: Array) -> Array:
        """Repeated directional derivative of one step's increment."""
        function = lambda at: increment(at, row)
        for direction in directions:
            function = _derivative(function, direction)
        return function(x)

    def one_pair(i: Array, j: Array) -> Array:
        def advance(carry: tuple[Array, Array, Array, Array], row: Array):
            x, y_i, y_j, z = carry
            if printed:
                new = z + along(x, row, y_i, z)
            else:
                new = z + along(x, row, z) + along(x, row, y_i, y_j)
            y_i, y_j = y_i + along(x, row, y_i), y_j + along(x, row, y_j)
            return (system.step(x, row), y_i, y_j, new), None

        unit = jnp.eye(n, dtype=x0.dtype)
        begin = unit[j] if printed else jnp.zeros_like(x0)
        return jax.lax.scan(advance, (x0, unit[i], unit[j], begin), rows)[0][3]

    index = jnp.arange(n)
    pairs = jax.vmap(jax.vmap(one_pair, (None, 0)), (0, None))(index, index)
    return jnp.moveaxis(pairs, -1, 0)


def _derivative(function, direction: Array):
    """x ↦ the directional derivative of `function` at x."""
    return lambda x: jax.jvp(function, (x,), (direction,))[1]
