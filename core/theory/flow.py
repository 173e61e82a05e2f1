"""The flow Φ of a perturbed SDE: its formula (45), its bound (18), its derivatives.

From *Towards Unraveling and Improving Generalization in World Models*. Φ carries a
small error from one time to the next: dΦ = ∂g_k Φ dB^k with Φ(0) = I, k = 0 being time.
Of a deterministic step x → F(x), such as a world model's core, take the drift F(x) − x
and dt = 1: the Jacobian J_0 is then J_F − I.
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
    """The states of one unperturbed path, the first included."""

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
    """`trajectory` of every path, from one state for all or from one for each."""
    run = jax.jit(jax.vmap(lambda a, b: trajectory(system, a, b)))
    return run(spread(x0, noise), noise)


def growth_rate(
    drift_jacobian: Float[Array, "n n"],
    noise_jacobians: Float[Array, "m n n"],
    dt: float = 0.0,
) -> Float[Array, ""]:
    """λ_max(J_0 + J_0ᵀ + Σ J_kᵀ J_k + dt J_0ᵀ J_0), the rate of (18) corrected.

    E‖Φv‖² grows at most at this rate: it is Itô's formula with `dt` = 0, and one step
    of Euler–Maruyama multiplies E‖v‖² by at most 1 + dt·rate, exactly.
    """
    j0 = drift_jacobian
    rate = j0 + j0.T + dt * j0.T @ j0
    rate = rate + jnp.einsum("kij,kil->jl", noise_jacobians, noise_jacobians)
    return jnp.linalg.eigvalsh(rate)[-1]


class FlowBound(NamedTuple):
    """E‖Φ_T‖_F² and what bounds it.

    Attributes:
        realized: E‖Φ_T‖_F² over the paths.
        rate: the largest `growth_rate` seen on any path at any time, an estimate from
            below of the supremum unless the paths are all there are.
        bound: n·exp(T·rate): the corrected (18).
        squares: E sup_t ‖∂g_k‖_F² for the drift and each column of the diffusion, what
            the paper's (18) has in its exponent.
        largest_squares: the supremum over the paths instead of the mean.
    """

    realized: Estimate
    rate: float
    bound: float
    squares: Float[np.ndarray, "m+1"]
    largest_squares: Float[np.ndarray, "m+1"]

    def printed(self, constant: float) -> float:
        """Σ_k C exp(C E sup‖∂g_k‖_F²), the right side of (18), for a chosen C.

        It has the mean inside the exponential: no C holds for all systems.
        """
        exponents = constant * np.asarray(self.squares)
        return float(constant * np.sum(np.exp(exponents)))


def flow_bound(
    system: EulerMaruyama,
    x0: Float[Array, "*paths n"],
    noise: Float[Array, "paths time m"],
) -> FlowBound:
    """Inequality (18) on given paths: E‖Φ_T‖_F² ≤ n exp(T sup λ_max(…))."""
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
    """Φ_T for constant Jacobians that commute, eq. (45).

    exp(J_0 T + Σ J_k B^k_T − ½ Σ J_k² T), k from 1. `printed` has J_k J_kᵀ instead of
    J_k², which is the same only for symmetric J_k.
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
    """∂²x_T/∂x0_i ∂x0_j of one path as entry [:, i, j], by its own SDE, eq. (52).

    d∂²_ij x = (∂g_k ∂²_ij x + ∂²g_k[∂_i x, ∂_j x]) dB^k from 0. `printed` is the
    paper's d∂²_ij x = ∂²g_k[∂_i x, ∂²_ij x] dB^k from e_j, which gives e_j where the
    truth is 0: in every linear system.
    """
    n = x0.shape[0]

    def increment(x: Array, row: Array) -> Array:
        return system.step(x, row) - x

    def along(x: Array, row: Array, *directions: Array) -> Array:
        """The derivative of one step's increment along each direction in turn."""
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
    """The directional derivative of a function, itself a function of the state."""
    return lambda x: jax.jvp(function, (x,), (direction,))[1]
