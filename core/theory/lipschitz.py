"""Lower and upper bounds on Lipschitz constants.

The two lower bounds evaluate the function or its Jacobian at sampled points. The upper
bound is the product of layer norms of a network, and is usually very loose.
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
    """‖J v‖ for the unit vector v from power iteration on JᵀJ, with J = ∂f/∂x.

    It is at most ‖J‖₂, a lower bound on the Lipschitz constant of f on any
    neighbourhood of x, and converges to ‖J‖₂ from below. An iteration costs one jvp and
    one vjp. For a set of points, take the maximum over a `jax.vmap`; for one argument
    of f only, close over the others.

    Args:
        f: a differentiable function of one array.
        x: the point at which J is taken.
        key: PRNG key of the initial v.
        iterations: applications of JᵀJ, at least 1.

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

    It is at most the Lipschitz constant on any set that contains the pairs. Coinciding
    pairs count as 0.
    """
    rise = jax.vmap(f)(a) - jax.vmap(f)(b)
    rise = jnp.sqrt(jnp.sum(rise.reshape(len(a), -1) ** 2, axis=1))
    run = jnp.linalg.norm(a - b, axis=1)
    return jnp.max(jnp.where(run > 0, rise / jnp.where(run > 0, run, 1.0), 0.0))


def layers_upper_bound(
    weights: Sequence[Float[Array, "out in"]], *, activation_slope: float = 1.0
) -> Float[Array, ""]:
    """The product of the layers' spectral norms: a global upper bound.

    Args:
        weights: matrices of a chain of linear layers, in either orientation.
        activation_slope: Lipschitz constant of the activation between two layers: 1
            for relu and tanh, 1.1 for silu, 1.13 for gelu.

    Raises:
        ValueError: `weights` is empty.
    """
    if not weights:
        raise ValueError("weights: no layers; give at least one matrix")
    norms = jnp.stack([jnp.linalg.norm(weight, ord=2) for weight in weights])
    return jnp.prod(norms) * activation_slope ** (len(weights) - 1)


def _unit(v: Array) -> Array:
    # If J v = 0 the result is 0, not NaN.
    return v / jnp.maximum(jnp.sqrt(jnp.sum(v**2)), _TINY)
