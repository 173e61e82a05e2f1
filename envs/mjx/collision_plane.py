"""Contacts of capsules with planes, with the friction axes of MuJoCo.

A pyramidal friction cone depends on the direction of its axes in the plane. In MuJoCo
the first is the capsule's own axis, projected onto the plane. MJX does the same, except
that it uses an axis of the world if the capsule is steeper than 60 degrees. One control
step of quadruped then differed from MuJoCo's by up to 3.8 rad/s. (In planar models both
choices give the same pyramid.)

Importing this module changes MJX's table of collision functions for the whole process.
"""

import jax.numpy as jnp
from mujoco.mjx._src import collision_driver, collision_primitive, math
from mujoco.mjx._src.types import GeomType


@collision_primitive.collider(ncon=2)
def _plane_capsule(plane, capsule):
    normal, axis = plane.mat[:, 2], capsule.mat[:, 2]
    first, length = math.normalize_with_norm(axis - normal * jnp.dot(normal, axis))
    # A shorter projection is rounding error.
    steep = length <= 8 * jnp.finfo(length.dtype).eps
    first = jnp.where(steep, math.make_frame(normal)[1], first)
    frame = jnp.stack([normal, first, jnp.cross(normal, first)])

    ends = capsule.pos + jnp.stack([axis, -axis]) * capsule.size[1]
    distance = (ends - plane.pos) @ normal - capsule.size[0]
    place = ends - normal * (capsule.size[0] + distance / 2)[:, None]
    return distance, place, jnp.stack([frame, frame])


_TYPES = (GeomType.PLANE, GeomType.CAPSULE)
if collision_driver._COLLISION_FUNC[_TYPES].ncon != _plane_capsule.ncon:
    raise ImportError(
        f"this version of MJX does not compute two contacts for {_TYPES}: install the "
        "version of mujoco-mjx in constraints.txt"
    )
collision_driver._COLLISION_FUNC[_TYPES] = _plane_capsule
