"""Contacts of capsules with planes whose friction axes are MuJoCo's.

A pyramid of friction is not round, so it matters how its axes lie in the plane. In
MuJoCo the first is the capsule's own axis, projected on the plane. MJX does that too,
but where the capsule stands steeper than 60 degrees it takes an axis of the world. A
control step of quadruped then differed by up to 3.8 rad/s from MuJoCo's. (In planar
models both axes give the same pyramid.)

Importing this module changes MJX's table for the whole process.
"""

import jax.numpy as jnp
from mujoco.mjx._src import collision_driver, collision_primitive, math
from mujoco.mjx._src.types import GeomType


@collision_primitive.collider(ncon=2)
def _plane_capsule(plane, capsule):
    normal, axis = plane.mat[:, 2], capsule.mat[:, 2]
    first, length = math.normalize_with_norm(axis - normal * jnp.dot(normal, axis))
    # Below this, what is left of the difference is rounding.
    steep = length <= 8 * jnp.finfo(length.dtype).eps
    first = jnp.where(steep, math.make_frame(normal)[1], first)
    frame = jnp.stack([normal, first, jnp.cross(normal, first)])

    ends = capsule.pos + jnp.stack([axis, -axis]) * capsule.size[1]
    distance = (ends - plane.pos) @ normal - capsule.size[0]
    place = ends - normal * (capsule.size[0] + distance / 2)[:, None]
    return distance, place, jnp.stack([frame, frame])


_TYPES = (GeomType.PLANE, GeomType.CAPSULE)
if collision_driver._COLLISION_FUNC[_TYPES].ncon != _plane_capsule.ncon:
    raise ImportError(f"this MJX does not make two contacts of {_TYPES}")
collision_driver._COLLISION_FUNC[_TYPES] = _plane_capsule
