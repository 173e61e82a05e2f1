"""From neighbouring states to the Jacobian: the limit in GPLD section 3.2 (eqs. 2–4).

As printed, eq. (3) takes the step from one side, and its error is of first order in the
step. A lattice has a neighbour on both sides, the odd orders cancel, and the error is
of second order. Equation (4) holds not for the sphere's uniform distribution alone but
for any K directions with Σuuᵀ = (K/d)·I: a lattice's axes are exact.

The squared ℓ2 norm of a table of probabilities is no property of the density behind
it: it shrinks with the volume of a cell, by which it must be divided
(`lattice_energy`). The sum over all states in eq. (1) has as many more terms and hides
that; a mean over states, as in eq. (5), does not.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from core.theory.tabular import finite_difference, gaussian_kernel, graph_laplacian


def jacobian_energy(
    fn: Callable[[Array], Array], x: Float[Array, " d"]
) -> Float[Array, ""]:
    """‖J_fn(x)‖_F²."""
    return jnp.sum(jax.jacfwd(fn)(x) ** 2)


def directional_energy(
    fn: Callable[[Array], Array],
    x: Float[Array, " d"],
    directions: Float[Array, "k d"],
) -> Float[Array, ""]:
    """d times the mean of ‖J u‖² over unit directions u (eq. 4, times d)."""
    push = lambda u: jnp.sum(jax.jvp(fn, (x,), (u,))[1] ** 2)
    return x.size * jnp.mean(jax.vmap(push)(directions))


def difference_energy(
    fn: Callable[[Array], Array],
    x: Float[Array, " d"],
    directions: Float[Array, "k d"],
    step: float,
) -> Float[Array, ""]:
    """d times the mean of ‖(fn(x + h·u) − fn(x))/h‖² over unit directions (eqs. 2–3).

    Needs float64 for small steps (`jax.enable_x64`): the difference cancels.
    """
    here = fn(x)
    energy = lambda u: jnp.sum(((fn(x + step * u) - here) / step) ** 2)
    return x.size * jnp.mean(jax.vmap(energy)(directions))


def axis_directions(
    dimensions: int, *, sides: Literal["one", "both"]
) -> Float[Array, "k d"]:
    """The axes of a lattice: d directions, or 2d with their opposites."""
    axes = jnp.eye(dimensions)
    return axes if sides == "one" else jnp.concatenate([axes, -axes])


def sphere_directions(
    key: PRNGKeyArray, *, count: int, dimensions: int
) -> Float[Array, "count d"]:
    """Independent directions, uniform on the unit sphere."""
    normal = jax.random.normal(key, (count, dimensions))
    return normal / jnp.linalg.norm(normal, axis=1, keepdims=True)


class LatticeEnergy(NamedTuple):
    """Equation (1) for one smooth kernel, tabulated on a lattice.

    Attributes:
        total: eq. (1) as printed, summed over states.
        per_state: d times its mean over ordered pairs, which estimates ‖J_P‖_F² at a
            state, as the mean over a batch does.
        per_state_density: that, divided by the volume of a cell: ∫‖∇_x p(y|x)‖² dy.
        continuum: the exact value of this integral.
    """

    total: float
    per_state: float
    per_state_density: float
    continuum: float


def lattice_energy(side: int, *, width: float = 0.12) -> LatticeEnergy:
    """Equation (1) for a Gaussian kernel about a point near the centre of [0,1]².

    Every state keeps a quarter of its offset from the centre. So almost no mass is cut
    off at the edges, and ∫‖∇_x p(y|x)‖² dy = 1/(64π width⁴) for every x.
    """
    axis = (np.arange(side) + 0.5) / side  # centres of cells: they tile [0,1]²
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    table = gaussian_kernel(0.375 + 0.25 * points, points, width=width)[:, None]
    laplacian = graph_laplacian(points, radius=1.01 / side)
    total = finite_difference(table, laplacian)
    per_state = 2.0 * total / (4 * side * (side - 1))
    continuum = 1.0 / (64.0 * np.pi * width**4)
    return LatticeEnergy(total, per_state, per_state * side**2, continuum)


def log_slope(steps: Float[np.ndarray, " n"], errors: Float[np.ndarray, " n"]) -> float:
    """The slope of log error against log step, by least squares."""
    return float(np.polyfit(np.log(steps), np.log(errors), 1)[0])
