"""Runs a function on every device's own share of its operands.

XLA divides its own operations among the devices of a mesh, but it cannot look into a
kernel: called plainly on divided states, every device would run all of them.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Float

STATES_AXIS = (1, 1, None, 0, 0, None)
"""Where each operand of the kernel has its states: δ, k, W, D, a, G."""

RESULT_STATES_AXIS = (1, 1, 0)
"""Where y, D⊙x and Σ x⊙v have theirs."""


def shares() -> int:
    """Among how many devices XLA divides arrays under the mesh of `jax.set_mesh`."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[name] for name in _automatic(mesh))


def divided[F: Callable[..., Any]](run: F, inputs: tuple[Any, ...], outputs: Any) -> F:
    """`run`, called by each device with its own share of every operand.

    Without a mesh, or inside a map over all of its devices, it is `run` itself.

    Args:
        inputs: of every operand, a pytree of arrays, the axis along which it is
            divided, or a pytree of axes; None for what is replicated on every device.
        outputs: the same of the result.

    `run` must not close over arrays.
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
    """`x`, divided along its first axis where the devices can share it evenly.

    For what was gathered from all devices: XLA would else leave it, and all that is
    computed from it, whole on each of them.
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
    """`run` on each device's share of the states, under the mesh of `jax.set_mesh`.

    The states are divided over all of the mesh's automatic axes; weights are whole on
    every device. Only the kernel is inside the map: sums over states, and with them all
    gradients of weights, stay outside, where XLA adds up the devices' shares.
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
