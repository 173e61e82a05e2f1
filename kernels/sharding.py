"""Runs the fused kernel on every device's own states.

XLA divides its own operations among the devices of a mesh, but it cannot look into a
kernel: called plainly on divided states, every device would run all of them.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Float

STATES_AXIS = (1, 1, None, 0, 0, None)
"""Where each operand of the kernel has its states: δ, k, W, D, a, G."""

RESULT_STATES_AXIS = (1, 1, 0)
"""Where y, D⊙x and Σ x⊙v have theirs."""


def over_states(
    run: Callable[..., tuple[Array, ...]], *operands: Float[Array, "..."]
) -> tuple[Array, ...]:
    """`run` on each device's share of the states, under the mesh of `jax.set_mesh`.

    The states are divided over all of the mesh's automatic axes; weights are whole on
    every device. Only the kernel is inside the map: sums over states, and with them all
    gradients of weights, stay outside, where XLA adds up the devices' shares.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(
        name
        for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if kind == AxisType.Auto
    )
    devices = math.prod(mesh.shape[name] for name in axes)
    if devices == 1:
        return run(*operands)

    def spec(axis: int | None) -> PartitionSpec:
        return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, axes)

    n = operands[0].shape[1]
    share = -(-n // devices)
    mapped = jax.shard_map(
        run,
        in_specs=tuple(spec(axis) for axis in STATES_AXIS),
        out_specs=tuple(spec(axis) for axis in RESULT_STATES_AXIS),
        axis_names=set(axes),
        check_vma=False,
    )
    padded = (
        x if axis is None else pad(x, axis, share * devices)
        for x, axis in zip(operands, STATES_AXIS, strict=True)
    )
    return tuple(
        jax.lax.slice_in_dim(x, 0, n, axis=axis)
        for x, axis in zip(mapped(*padded), RESULT_STATES_AXIS, strict=True)
    )


def pad(x: Array, axis: int, size: int) -> Array:
    """Appends zeros up to `size` entries along `axis`."""
    width = [(0, 0)] * x.ndim
    width[axis] = (0, size - x.shape[axis])
    return jnp.pad(x, width)
