"""Layers of DreamerV3: dense and block-diagonal linear maps, RMS norm, MLP.

Every layer maps the last axis and keeps all leading ones, so it can be called on one
vector or on any batch. Parameters are float32; cast a whole module with `cast` to
compute in another type.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray, PyTree

from core.networks.transforms import lift

RMS_EPS = 1e-4


def cast[T: PyTree](tree: T, dtype: DTypeLike) -> T:
    """The tree with every floating-point array converted to `dtype`.

    Norms keep their float32 scale: they compute in float32 anyway.
    """

    def convert(node: Any) -> Any:
        if isinstance(node, RMSNorm) or not eqx.is_inexact_array(node):
            return node
        return node.astype(dtype)

    return jax.tree.map(convert, tree, is_leaf=lambda x: isinstance(x, RMSNorm))


def truncated_normal(
    key: PRNGKeyArray, shape: tuple[int, ...], fan_in: int, scale: float = 1.0
) -> Float[Array, "..."]:
    """Normal truncated at two standard deviations, with variance scale²/fan_in.

    1.1368 is 1 / the standard deviation of the truncated unit normal.
    """
    if scale == 0.0:
        return jnp.zeros(shape, jnp.float32)
    draw = jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32)
    return draw * (1.1368 * scale / fan_in**0.5)


def add_bias(
    x: Float[Array, "*batch outputs"], bias: Float[Array, "..."]
) -> Float[Array, "*batch outputs"]:
    """x + bias, computed in at least float32.

    The gradient of the bias is a sum over the batch, which bfloat16 would round away.

    Args:
        bias: `[outputs]`, or as many axes as `x`, of length 1 where it is broadcast.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    bias = bias if bias.ndim == x.ndim else lift(bias, x.ndim)
    return (x.astype(wide) + bias.astype(wide)).astype(x.dtype)


class Linear(eqx.Module):
    """x ↦ x·W + b.

    Args:
        parts: sizes of groups of outputs that the optimizer treats as separate layers;
            empty for a single layer.
    """

    weight: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"]
    parts: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        key: PRNGKeyArray,
        scale: float = 1.0,
        parts: tuple[int, ...] = (),
    ):
        if parts and sum(parts) != outputs:
            raise ValueError(f"parts={parts} must add up to outputs={outputs}")
        self.weight = truncated_normal(key, (inputs, outputs), inputs, scale)
        self.bias = jnp.zeros(outputs, jnp.float32)
        self.parts = parts

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch out"]:
        return add_bias(x @ self.weight, self.bias)


class BlockLinear(eqx.Module):
    """Block-diagonal linear map: input group g only feeds output group g.

    Maps the last axis of `[*batch, groups, inputs/groups]`. As in DreamerV3, the
    initial scale counts the inputs of all groups.
    """

    weight: Float[Array, "groups group_in group_out"]
    bias: Float[Array, " outputs"]

    def __init__(self, inputs: int, outputs: int, groups: int, *, key: PRNGKeyArray):
        if inputs % groups or outputs % groups:
            raise ValueError(
                f"groups={groups} must divide inputs={inputs} and outputs={outputs}"
            )
        shape = (groups, inputs // groups, outputs // groups)
        self.weight = truncated_normal(key, shape, inputs)
        self.bias = jnp.zeros(outputs, jnp.float32)

    def __call__(
        self, x: Float[Array, "*batch groups group_in"]
    ) -> Float[Array, "*batch groups group_out"]:
        out = jnp.einsum("...gi,gio->...go", x, self.weight)
        bias = self.bias.reshape((1,) * (out.ndim - 2) + out.shape[-2:])
        return add_bias(out, bias)


class RMSNorm(eqx.Module):
    """x ↦ scale·x/√(mean x² + 1e-4), computed in float32."""

    scale: Float[Array, " size"]

    def __init__(self, size: int):
        self.scale = jnp.ones(size, jnp.float32)

    def __call__(self, x: Float[Array, "*batch size"]) -> Float[Array, "*batch size"]:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        scale = lift(self.scale.astype(wide.dtype), x.ndim)
        return (wide * jax.lax.rsqrt(mean + RMS_EPS) * scale).astype(x.dtype)


class Dense(eqx.Module):
    """Linear → RMSNorm → SiLU."""

    linear: Linear
    norm: RMSNorm

    def __init__(self, inputs: int, outputs: int, *, key: PRNGKeyArray):
        self.linear = Linear(inputs, outputs, key=key)
        self.norm = RMSNorm(outputs)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch out"]:
        return self.activate(self.linear(x))

    def after(self, product: Float[Array, "*batch out"]) -> Float[Array, "*batch out"]:
        """The layer from `product` = x·W, computed by the caller."""
        return self.activate(add_bias(product, self.linear.bias))

    def activate(self, x: Float[Array, "*batch out"]) -> Float[Array, "*batch out"]:
        """SiLU(RMSNorm(x)) of a pre-activation x."""
        return jax.nn.silu(self.norm(x))


class MLP(eqx.Module):
    """`layers` dense layers of `units` each, without an output layer."""

    layers: tuple[Dense, ...]

    def __init__(self, inputs: int, units: int, layers: int, *, key: PRNGKeyArray):
        sizes = [inputs] + [units] * layers
        keys = jax.random.split(key, layers)
        self.layers = tuple(
            Dense(i, o, key=k) for i, o, k in zip(sizes, sizes[1:], keys, strict=False)
        )

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch out"]:
        for layer in self.layers:
            x = layer(x)
        return x
