"""From finite differences to the Jacobian: the limit in GPLD section 3.2 (eqs. 2–4).

Eq. (3) as printed is a one-sided difference, with an error of first order in the step.
On a lattice with neighbours on both sides the odd orders cancel and the error is of
second order. Eq. (4) holds not only for the uniform distribution on the sphere but for
any K directions with Σuuᵀ = (K/d)·I, such as the axes of a lattice.

The squared ℓ2 norm of a discretized density is proportional to the cell volume, so it
must be divided by it (`lattice_energy`). The sum over states in eq. (1) hides this,
because its number of terms grows by the same factor; the mean in eq. (5) does not.
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

    Small steps need float64 (`jax.enable_x64`) because of cancellation.
    """
    here = fn(x)
    energy = lambda u: jnp.sum(((fn(x + step * u) - here) / step) ** 2)
    return x.size * jnp.mean(jax.vmap(energy)(directions))


def axis_directions(
    dimensions: int, *, sides: Literal["one", "both"]
) -> Float[Array, "k d"]:
    """The axes of a lattice: d directions, or 2d with both signs."""
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
        per_state: d times its mean over ordered pairs, an estimate of ‖J_P‖_F² per
            state, as in a mean over a batch.
        per_state_density: `per_state` / cell volume, which tends to ∫‖∇_x p(y|x)‖² dy.
        continuum: the exact value of this integral.
    """

    total: float
    per_state: float
    per_state_density: float
    continuum: float


def lattice_energy(side: int, *, width: float = 0.12) -> LatticeEnergy:
    """Equation (1) for a Gaussian kernel with means near the centre of [0,1]².

    Each mean is the state contracted to the centre by a factor 4, so that almost no
    mass is cut off at the edges and ∫‖∇_x p(y|x)‖² dy = 1/(64π width⁴) for every x.
    """
    axis = (np.arange(side) + 0.5) / side  # cell centres
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
