"""The categorical head that the penalty differentiates, and its plain forward pass."""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

RMS_EPS = 1e-4
"""Added to the mean square inside RMSNorm, as in DreamerV3."""

Activation = Literal["silu", "gelu", "tanh"]
ACTIVATION_NAMES: tuple[str, ...] = get_args(Activation)
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu": jax.nn.gelu,
    "tanh": jnp.tanh,
}


class CategoricalHead(NamedTuple):
    """Weights of ``u -> Linear -> RMSNorm -> activation -> Linear -> [K, C] logits``.

    The columns of `w_out` are K rows of C classes each, classes fastest.
    """

    w_in: Float[Array, "d h"]
    b_in: Float[Array, " h"]
    scale: Float[Array, " h"]
    w_out: Float[Array, "h kc"]
    b_out: Float[Array, " kc"]


def head_probabilities(
    preactivation: Float[Array, "*batch h"],
    head: CategoricalHead,
    *,
    classes: int,
    unimix: float = 0.01,
    activation: Activation = "silu",
) -> Float[Array, "*batch k c"]:
    """(1 − unimix)·softmax(logits) + unimix/C for every row."""
    a = preactivation
    inverse_rms = jax.lax.rsqrt(jnp.mean(a * a, axis=-1, keepdims=True) + RMS_EPS)
    z = ACTIVATIONS[activation]((a * inverse_rms) * _like(head.scale, a))
    logits = z @ head.w_out
    logits = logits + _like(head.b_out, logits)
    rows = logits.reshape(*logits.shape[:-1], -1, classes)
    return (1.0 - unimix) * jax.nn.softmax(rows) + unimix / classes


def _like(vector: Array, x: Array) -> Array:
    """Give `vector` the rank of `x`, without implicit rank promotion."""
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)
