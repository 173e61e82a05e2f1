"""Estimates of Lipschitz constants, each named for the side of the truth it is on.

Two are lower bounds: they find a place where the function is at least so steep. One is
an upper bound, for networks of known layers, and is usually far above the truth.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

_TINY = 1e-30


def local_lower_bound(
    f: Callable[[Float[Array, " inputs"]], Float[Array, "*outputs"]],
    x: Float[Array, " inputs"],
    *,
    key: Key[Array, ""],
    iterations: int = 15,
) -> Float[Array, ""]:
    """‖J v‖ for the unit vector v that power iteration on JᵀJ leads to, J = ∂f/∂x.

    It is at most ‖J‖₂, which is at most the Lipschitz constant of f on any
    neighbourhood of x, and grows towards ‖J‖₂ with the iterations. One iteration costs
    one jvp and one vjp. For a constant of a set, take the maximum over a `jax.vmap`;
    for one argument of f only, close over the others.

    Args:
        f: any differentiable function of one array.
        x: where.
        key: draws the first v.
        iterations: how often JᵀJ is applied, at least 1.

    Raises:
        ValueError: `iterations` is below 1.
    """
    if iterations < 1:
        raise ValueError(f"iterations={iterations} must be at least 1")
    _, pushed = jax.linearize(f, x)
    pulled = jax.linear_transpose(pushed, x)

    def body(v, _):
        (w,) = pulled(pushed(v))
        return _unit(w), None

    first = _unit(jax.random.normal(key, x.shape, x.dtype))
    v, _ = jax.lax.scan(body, first, length=iterations)
    return jnp.sqrt(jnp.sum(pushed(v) ** 2))


def pairs_lower_bound(
    f: Callable[[Float[Array, " inputs"]], Float[Array, "*outputs"]],
    a: Float[Array, "pairs inputs"],
    b: Float[Array, "pairs inputs"],
) -> Float[Array, ""]:
    """The largest ‖f(a) - f(b)‖ / ‖a - b‖ over sampled pairs; f need not be smooth.

    It is at most the Lipschitz constant on any set that holds the pairs. Pairs that
    coincide count as 0.
    """
    rise = jax.vmap(f)(a) - jax.vmap(f)(b)
    rise = jnp.sqrt(jnp.sum(rise.reshape(len(a), -1) ** 2, axis=1))
    run = jnp.linalg.norm(a - b, axis=1)
    return jnp.max(jnp.where(run > 0, rise / jnp.where(run > 0, run, 1.0), 0.0))


def layers_upper_bound(
    weights: Sequence[Float[Array, "out in"]], *, activation_slope: float = 1.0
) -> Float[Array, ""]:
    """The product of the layers' spectral norms: an upper bound, everywhere.

    Args:
        weights: the matrices of a chain of linear layers, in either orientation.
        activation_slope: Lipschitz constant of the activation between two layers: 1
            for relu and tanh, 1.1 for silu, 1.13 for gelu.

    Raises:
        ValueError: there is no layer.
    """
    if not weights:
        raise ValueError("weights: no layer; give at least one matrix")
    norms = jnp.stack([jnp.linalg.norm(weight, ord=2) for weight in weights])
    return jnp.prod(norms) * activation_slope ** (len(weights) - 1)


def _unit(v: Array) -> Array:
    # Where J v vanishes there is no direction to follow, and 0 is the answer.
    return v / jnp.maximum(jnp.sqrt(jnp.sum(v**2)), _TINY)
