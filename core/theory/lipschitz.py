"""Lower and upper bounds on Lipschitz constants.

The lower bound evaluates the function at sampled points; another one is the norm of its
Jacobian at a point, `core.smoothness.spectral_norm`. The upper bound is the product of
layer norms of a network, and is usually very loose.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


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
