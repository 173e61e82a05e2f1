"""Norms of Jacobians of any JAX function, without forming the Jacobian.

Each function here is for one point. For a batch, use `jax.vmap`:

    keys = jax.random.split(key, len(xs))
    norms = jax.vmap(lambda x, key: spectral_norm(f, x, key=key))(xs, keys)

x and f(x) may be arrays or trees of arrays; a tree counts as one long vector.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

Point = PyTree[Float[Array, "..."]]


class Products(NamedTuple):
    """J = ∂f/∂x at a point, as products with flat vectors."""

    like: Float[Array, " inputs"]
    """The flat x: its size and type."""
    pushed: Callable[[Float[Array, " inputs"]], Float[Array, " outputs"]]
    """v ↦ Jv, a jvp."""
    pulled: Callable[[Float[Array, " outputs"]], Float[Array, " inputs"]]
    """w ↦ Jᵀw, a vjp."""

    @classmethod
    def of(cls, f: Callable[[Point], Point], x: Point) -> "Products":
        """Linearize f at x, once for all products.

        Raises:
            ValueError: x is empty.
        """
        flat, restore = ravel_pytree(x)
        if not flat.size:
            raise ValueError("x: it has no entries, and so there is no Jacobian")
        _, pushed = jax.linearize(lambda x: ravel_pytree(f(restore(x)))[0], flat)
        transposed = jax.linear_transpose(pushed, flat)
        return cls(flat, pushed, lambda w: transposed(w)[0])


class SpectralNorm(NamedTuple):
    """What power iteration found."""

    norm: Float[Array, ""]
    """A lower bound of ‖J‖₂."""
    iterations: Int[Array, ""]
    """Products with JᵀJ."""
    converged: Bool[Array, ""]
    """Whether the estimated remaining error is below the tolerance."""


class FrobeniusNorm(NamedTuple):
    """Hutchinson's estimate of ‖J‖_F²."""

    square: Float[Array, ""]
    """Unbiased. Its root is biased low."""
    standard_error: Float[Array, ""]
    """Of `square`, over the probes."""


class Growth(NamedTuple):
    """Growth of perturbations along a rollout x_0 … x_T; entry t − 1 is of x_t."""

    states: Point
    """x_1 … x_T: each leaf has a first axis of T."""
    average: Float[Array, " time"]
    """Estimate of ‖Φ_t‖_F/√n: the root of the mean of ‖Φ_t u‖² over unit vectors u."""
    largest: Float[Array, " time"]
    """A lower bound of ‖Φ_t‖₂: its norm on the span of the probes."""


def spectral_norm(
    f: Callable[[Point], Point],
    x: Point,
    *,
    key: PRNGKeyArray,
    tolerance: float = 1e-3,
    max_iterations: int = 100,
) -> SpectralNorm:
    """‖J‖₂ by power iteration on JᵀJ, with J = ∂f/∂x at x: a LOWER bound.

        v ← JᵀJv / ‖JᵀJv‖,    norm = ‖Jv‖

    from a random v. An iteration costs one jvp and one vjp of f. In exact arithmetic
    ‖Jv‖ never decreases, and it never exceeds ‖J‖₂, which itself is a lower bound of
    the Lipschitz constant of f on any neighbourhood of x.

    The iteration stops when the estimated remaining error is below `tolerance · norm`.
    With d' and d the increases of the norm in the last two of k iterations, the
    estimate is the larger one of

        d²/(d' − d)    what is left of a geometric series
        k·d            what is left if the error falls as 1/k: singular values that lie
                       close together, of which J of a network has many

    A small increase alone says little: increases are also small, but growing, before
    the largest singular value is found. No estimate of this kind is a proof. A
    `converged` norm is likely, but not certain, to be within the tolerance.

    Args:
        f: a differentiable function of one array, or of a tree of arrays.
        x: where J is taken.
        key: PRNG key of the first v.
        tolerance: relative error of the norm, above 0.
        max_iterations: at least 1. If they do not suffice, or a number is not finite,
            `converged` is false.

    Raises:
        ValueError: an option is out of its range, or x is empty.
    """
    return power_iteration(
        Products.of(f, x), key=key, tolerance=tolerance, max_iterations=max_iterations
    )


def power_iteration(
    jacobian: Products, *, key: PRNGKeyArray, tolerance: float, max_iterations: int
) -> SpectralNorm:
    """`spectral_norm` of a function that is linearized already.

    Raises:
        ValueError: an option is out of its range.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance={tolerance}: must be above 0")
    if max_iterations < 1:
        raise ValueError(f"max_iterations={max_iterations}: must be at least 1")
    like, pushed, pulled = jacobian
    rounding = 4 * float(jnp.finfo(like.dtype).eps)

    def advance(carry: _Iteration) -> _Iteration:
        # The norm is that of a jvp: a rounding error of the vjp only tilts v a little.
        # Reverse mode through a two-hot head, whose bins reach 4.9e8, is off by .5 %.
        image = pushed(_unit(pulled(_unit(carry.image))))
        norm, count = _length(image), carry.count + 1
        increase = (norm - carry.norm) / jnp.where(norm > 0, norm, 1)
        slowing = increase < carry.increase
        slower = jnp.where(slowing, carry.increase - increase, 1)
        left = jnp.maximum(increase**2 / slower, increase * count)
        converged = (slowing & (left <= tolerance)) | (increase <= rounding)
        return _Iteration(image, norm, increase, count, converged)

    def goes_on(carry: _Iteration) -> Array:
        return ~carry.converged & (carry.count < max_iterations)

    image = pushed(_unit(jax.random.normal(key, like.shape, like.dtype)))
    zero = jnp.zeros((), like.dtype)
    first = _Iteration(
        image, _length(image), zero, jnp.zeros((), jnp.int32), jnp.zeros((), bool)
    )
    last = jax.lax.while_loop(goes_on, advance, first)
    return SpectralNorm(last.norm, last.count, last.converged)


class _Iteration(NamedTuple):
    image: Array
    """Jv of the present v."""
    norm: Array
    increase: Array
    """Of the norm in the last iteration, relative; 0 before the first."""
    count: Array
    converged: Array


def frobenius_norm(
    f: Callable[[Point], Point], x: Point, *, key: PRNGKeyArray, probes: int
) -> FrobeniusNorm:
    """‖J‖_F² by Hutchinson's estimator, with J = ∂f/∂x at x.

        ‖J‖_F² = E ‖Jε‖²,    ε a vector of random signs

    One jvp for each probe. The estimate has no error if the columns of J are orthogonal
    (JᵀJ is diagonal), such as for a multiple of an orthogonal matrix.

    Args:
        probes: number of vectors ε, at least 2: one alone has no standard error.

    Raises:
        ValueError: there are fewer than 2 probes, or x is empty.
    """
    return hutchinson(Products.of(f, x), key=key, probes=probes)


def hutchinson(jacobian: Products, *, key: PRNGKeyArray, probes: int) -> FrobeniusNorm:
    """`frobenius_norm` of a function that is linearized already.

    Raises:
        ValueError: there are fewer than 2 probes.
    """
    if probes < 2:
        raise ValueError(f"probes={probes}: must be at least 2")
    like = jacobian.like
    signs = jax.random.rademacher(key, (probes, like.size), like.dtype)
    squares = jnp.sum(jnp.square(jax.vmap(jacobian.pushed)(signs)), axis=-1)
    deviation = jnp.std(squares, ddof=1)
    return FrobeniusNorm(jnp.mean(squares), deviation / probes**0.5)


def growth(
    step: Callable[[Point, Any], Point],
    x0: Point,
    inputs: PyTree,
    *,
    key: PRNGKeyArray,
    probes: int,
) -> Growth:
    """How perturbations of x_0 grow along the rollout x_{t+1} = step(x_t, inputs_t).

        Φ_t = J_{t−1} ⋯ J_1 J_0,    J_t = ∂step/∂x at x_t

    Orthonormal random vectors u are pushed through the rollout, one jvp per probe and
    step. Their direction is uniform, so that E‖Φ_t u‖² = ‖Φ_t‖_F²/n, with n the size of
    x. With as many probes as entries of x, both results are exact.

    `largest` is a LOWER bound of ‖Φ_t‖₂. Where one direction dominates, it is too low
    by a factor of about √(n / probes); `spectral_norm` of t steps as one function is
    close, at a cost of tens of rollouts. ‖Φ_t‖_F = √n·`average` is never below ‖Φ_t‖₂.

    Args:
        step: `(x, input) ↦ x`, with the same shapes and types.
        x0: where the rollout starts.
        inputs: the inputs of `step`, such as actions; the first axis is time.
        probes: number of vectors u, from 1 to the number of entries of x0.

    Raises:
        ValueError: `probes` is out of its range.
    """
    flat, restore = ravel_pytree(x0)
    if not 1 <= probes <= flat.size:
        raise ValueError(
            f"probes={probes}: must be from 1 to {flat.size}, the number of entries of "
            "x0, as they are orthogonal"
        )
    normal = jax.random.normal(key, (flat.size, probes), flat.dtype)
    directions = jnp.linalg.qr(normal)[0].T

    def advance(carry: tuple[Array, Array], each: Any) -> tuple[tuple, Growth]:
        x, vectors = carry
        flat_step = lambda x: ravel_pytree(step(restore(x), each))[0]
        x, pushed = jax.linearize(flat_step, x)
        vectors = jax.vmap(pushed)(vectors)
        scale = _scale(vectors)
        scaled = vectors / scale
        average = scale * jnp.sqrt(jnp.sum(jnp.square(scaled)) / probes)
        values = jnp.linalg.eigvalsh(scaled @ scaled.T)
        largest = scale * jnp.sqrt(jnp.maximum(values[-1], 0))
        return (x, vectors), Growth(restore(x), average, largest)

    return jax.lax.scan(advance, (flat, directions), inputs)[1]


def _scale(x: Array) -> Array:
    """The largest magnitude, or 1 if all entries are 0."""
    largest = jnp.max(jnp.abs(x))
    return jnp.where(largest == 0, 1, largest)


def _length(x: Array) -> Array:
    # Squares of what a long rollout shrinks or stretches leave float32's range.
    scale = _scale(x)
    return scale * jnp.sqrt(jnp.sum(jnp.square(x / scale)))


def _unit(x: Array) -> Array:
    length = _length(x)
    return x / jnp.where(length == 0, 1, length)
