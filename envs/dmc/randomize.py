"""Start positions drawn over the whole range of a model's joints."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from envs._mjx import MjModel, mujoco


def random_joints(model: MjModel, key: Key[Array, ""]) -> Float[Array, " nq"]:
    """Draws joint positions: limited joints over their range, hinges over a turn.

    Limited hinges and slides are uniform in their range, unlimited hinges uniform in
    [-π, π); unlimited slides stay at the model's reference position.

    Args:
        model: a model whose joints are hinges and slides.
        key: PRNG key.

    Returns:
        Positions `(nq,)`, metres and radians.

    Raises:
        ValueError: the model has a ball or free joint.
    """
    hinge, slide = mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE
    is_hinge = model.jnt_type == hinge
    if not np.all(is_hinge | (model.jnt_type == slide)):
        raise ValueError(
            f"model has joints of types {sorted(set(model.jnt_type.tolist()))}: only "
            f"hinges ({int(hinge)}) and slides ({int(slide)}) can be randomized here"
        )
    limited = model.jnt_limited.astype(bool)
    free = np.where(is_hinge, np.pi, 0.0)
    low = np.where(limited, model.jnt_range[:, 0], -free)
    high = np.where(limited, model.jnt_range[:, 1], free)
    dtype = jnp.result_type(float)
    unit = jax.random.uniform(key, (model.nq,), dtype)
    drawn = low.astype(dtype) + unit * (high - low).astype(dtype)
    kept = model.qpos0.astype(dtype)
    return jnp.where(limited | is_hinge, drawn, kept)
