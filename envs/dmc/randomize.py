"""Random start positions over the whole range of a model's joints."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, PyTree

from envs.mjx._mjx import MjModel, mujoco


def random_joints(model: MjModel, key: Key[Array, ""]) -> Float[Array, " nq"]:
    """Draws joint positions: limited joints over their range, hinges over a turn.

    Limited hinges and slides are uniform in their range, unlimited hinges uniform in
    [-π, π), ball joints uniform over the rotations. A free joint's rotation is drawn
    as in dm_control, a normalized vector of [0, 1)⁴; its position and unlimited
    slides stay at the model's reference position.

    Args:
        model: the model; its ball joints must be unlimited.
        key: PRNG key.

    Returns:
        Positions `(nq,)`, metres, radians and unit quaternions.

    Raises:
        ValueError: the model has a limited ball joint.
    """
    kind = mujoco.mjtJoint
    types, limited = model.jnt_type, model.jnt_limited.astype(bool)
    if np.any((types == kind.mjJNT_BALL) & limited):
        raise ValueError(
            "the model has a limited ball joint, which random_joints cannot draw: "
            "remove its limit, or draw that joint in the task's `initial`"
        )
    dtype = jnp.result_type(float)
    is_hinge = types == kind.mjJNT_HINGE
    turn = np.where(is_hinge, np.pi, 0.0)
    low = np.where(limited, model.jnt_range[:, 0], -turn)
    high = np.where(limited, model.jnt_range[:, 1], turn)
    unit = jax.random.uniform(key, (model.njnt,), dtype)
    scalar = low.astype(dtype) + unit * (high - low).astype(dtype)

    qpos = jnp.asarray(model.qpos0, dtype)
    (drawn,) = np.nonzero((limited & (types == kind.mjJNT_SLIDE)) | is_hinge)
    qpos = qpos.at[model.jnt_qposadr[drawn]].set(scalar[drawn])
    for joint in np.flatnonzero(types == kind.mjJNT_BALL):
        quaternion = jax.random.normal(jax.random.fold_in(key, joint), (4,), dtype)
        qpos = _set_rotation(qpos, int(model.jnt_qposadr[joint]), quaternion)
    for joint in np.flatnonzero(types == kind.mjJNT_FREE):
        quaternion = jax.random.uniform(jax.random.fold_in(key, joint), (4,), dtype)
        qpos = _set_rotation(qpos, int(model.jnt_qposadr[joint]) + 3, quaternion)
    return qpos


def first_accepted[T: PyTree](
    draw: Callable[[Key[Array, ""]], T],
    accept: Callable[[T], Bool[Array, ""]],
    key: Key[Array, ""],
    *,
    attempts: int = 1000,
) -> T:
    """Rejection sampling: draws until `accept` holds.

    For start poses without collisions use `accept` = `simulator.gap(qpos) > 0`. Under
    `jax.vmap` the loop runs until the last element of the batch is accepted.

    Args:
        draw: makes a candidate from a key.
        accept: whether a candidate is valid.
        key: PRNG key.
        attempts: the largest number of candidates, at least 1. If none is accepted,
            the last one is returned.

    Returns:
        The first accepted candidate.

    Raises:
        ValueError: `attempts` is less than 1.
    """
    if attempts < 1:
        raise ValueError(f"attempts={attempts} must be at least 1")

    def again(carry):
        _, candidate, count = carry
        return ~accept(candidate) & (count < attempts)

    def redraw(carry):
        key, _, count = carry
        key, draw_key = jax.random.split(key)
        return key, draw(draw_key), count + 1

    start = redraw((key, None, jnp.zeros((), jnp.int32)))
    return jax.lax.while_loop(again, redraw, start)[1]


def _set_rotation(
    qpos: Float[Array, " nq"], address: int, vector: Float[Array, "4"]
) -> Float[Array, " nq"]:
    unit = vector / jnp.linalg.norm(vector)
    return jax.lax.dynamic_update_slice(qpos, unit, (address,))
