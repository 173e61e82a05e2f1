"""Run a function on each device's shard of its operands.

XLA partitions its own operations over the devices of a mesh, but not a custom kernel:
without this, every device would run the kernel on all states.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Float

STATES_AXIS = (1, 1, None, 0, 0, None)
"""The axis of the states in each operand of the kernel: δ, k, W, D, a, G."""

RESULT_STATES_AXIS = (1, 1, 0)
"""The same for its results y, D⊙x and Σ x⊙v."""


def shares() -> int:
    """Number of devices that XLA partitions arrays over, under `jax.set_mesh`."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[name] for name in _automatic(mesh))


def divided[F: Callable[..., Any]](run: F, inputs: tuple[Any, ...], outputs: Any) -> F:
    """`jax.shard_map` of `run`: each device calls it with its shard of every operand.

    Without a mesh, or inside a map over all of its devices, it is `run` itself. `run`
    must not close over arrays.

    Args:
        inputs: for each operand (a pytree) the axis along which it is divided, or a
            pytree of axes; None if it is replicated.
        outputs: the same for the result.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = _automatic(mesh)
    if shares() == 1:
        return run

    def spec(axis: int | None) -> PartitionSpec:
        return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, axes)

    def specs(axes: Any) -> Any:
        return jax.tree.map(spec, axes, is_leaf=lambda axis: axis is None)

    return jax.shard_map(
        run,
        in_specs=specs(inputs),
        out_specs=specs(outputs),
        axis_names=set(axes),
        check_vma=False,
    )


def divide(x: Array) -> Array:
    """`x`, sharded along its first axis if the number of devices divides it.

    For gathered arrays: XLA would otherwise replicate them, and everything computed
    from them, on every device.
    """
    if shares() == 1 or x.shape[0] % shares():
        return x
    axes = _automatic(jax.sharding.get_abstract_mesh())
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes))


def _automatic(mesh: jax.sharding.AbstractMesh) -> tuple[str, ...]:
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return tuple(name for name, kind in kinds if kind == AxisType.Auto)


def over_states(
    run: Callable[..., tuple[Array, ...]], *operands: Float[Array, "..."]
) -> tuple[Array, ...]:
    """`run` on each device's shard of the states, under the mesh of `jax.set_mesh`.

    The states are divided over all automatic axes of the mesh; weights are replicated.
    Only the kernel is inside the map. Sums over states, and so all gradients of
    weights, stay outside, where XLA sums over devices.
    """
    devices = shares()
    if devices == 1:
        return run(*operands)
    n = operands[0].shape[1]
    share = -(-n // devices)
    mapped = divided(run, STATES_AXIS, RESULT_STATES_AXIS)
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
