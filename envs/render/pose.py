"""Positions and orientations of everything that a renderer draws."""

from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from envs.mjx._mjx import mjx, mujoco
from envs.render.scene import Mount, Scene
from envs.render.tendon import links

if TYPE_CHECKING:
    type Data = Any
else:
    Data = mjx.Data | mujoco.MjData

_MODES = mujoco.mjtCamLight


class Pose(eqx.Module):
    """Everything that moves, in world coordinates.

    Attributes:
        position: centres of the solids, metres.
        rotation: orientations of the solids, their axes in the columns.
        camera_position: position of the camera, metres.
        camera_rotation: right, up and backward direction of the camera, in columns.
        light_position: positions of the lights, metres.
        light_direction: unit vectors along which they shine.
    """

    position: Float[Array, "*batch solids 3"]
    rotation: Float[Array, "*batch solids 3 3"]
    camera_position: Float[Array, "*batch 3"]
    camera_rotation: Float[Array, "*batch 3 3"]
    light_position: Float[Array, "*batch lights 3"]
    light_direction: Float[Array, "*batch lights 3"]


def to_camera(pose: Pose, vectors: Float[Array, "*rows 3"]) -> Float[Array, "*rows 3"]:
    """Vectors of the world frame, in the camera frame."""
    return jnp.matmul(vectors, pose.camera_rotation, precision="highest")


def read_pose(scene: Scene, data: Data) -> Pose:
    """The pose of a scene, from up-to-date kinematics.

    Args:
        scene: the static part of what is drawn.
        data: `mjx.Data` after `kinematics` and `com_pos`, or `mujoco.MjData` after
            their counterparts in C.
    """
    position, rotation = [], []
    for source in ("geom", "site"):
        rows = [s.index for s in scene.solids if s.source == source]
        if rows:
            place = jnp.asarray(getattr(data, f"{source}_xpos"), jnp.float32)
            turn = jnp.asarray(getattr(data, f"{source}_xmat"), jnp.float32)
            position.append(place[jnp.asarray(rows)])
            rotation.append(turn.reshape(-1, 3, 3)[jnp.asarray(rows)])
    sites = jnp.asarray(data.site_xpos, jnp.float32)
    for cord in scene.cords:
        first, second = cord.sites
        centers, turns = links(sites[first], sites[second], cord.length)
        # With x64 enabled, `links` returns float64.
        position.append(centers.astype(jnp.float32))
        rotation.append(turns.astype(jnp.float32))
    camera_position, camera_rotation = carried(scene.camera, data)
    lights = [carried(light.mount, data) for light in scene.lights]
    return Pose(
        position=jnp.concatenate(position),
        rotation=jnp.concatenate(rotation),
        camera_position=camera_position,
        camera_rotation=camera_rotation,
        light_position=_rows([place for place, _ in lights]),
        light_direction=_rows([turn[:, 2] for _, turn in lights]),
    )


def _rows(vectors: list[Array]) -> Float[Array, "rows 3"]:
    return jnp.stack(vectors) if vectors else jnp.zeros((0, 3), jnp.float32)


def carried(mount: Mount, data: Data) -> tuple[Float[Array, "3"], Float[Array, "3 3"]]:
    """Position and orientation of a camera or light, in world coordinates.

    MJX does not compute them for lights, and for cameras only before the last substep.
    """
    offset = jnp.asarray(mount.offset, jnp.float32)
    rotation = jnp.asarray(mount.rotation, jnp.float32)
    body = jnp.asarray(data.xpos[mount.body], jnp.float32)
    center = jnp.asarray(data.subtree_com, jnp.float32)
    if mount.mode == _MODES.mjCAMLIGHT_TRACK:
        return body + offset, rotation
    if mount.mode == _MODES.mjCAMLIGHT_TRACKCOM:
        return center[mount.body] + offset, rotation
    frame = jnp.asarray(data.xmat[mount.body], jnp.float32).reshape(3, 3)
    position = body + jnp.matmul(frame, offset, precision="highest")
    if mount.mode == _MODES.mjCAMLIGHT_FIXED or mount.target < 0:
        return position, jnp.matmul(frame, rotation, precision="highest")
    if mount.mode == _MODES.mjCAMLIGHT_TARGETBODY:
        target = jnp.asarray(data.xpos[mount.target], jnp.float32)
    else:
        target = center[mount.target]
    forward = target - position if mount.lamp else position - target
    return position, _facing(forward)


def _facing(direction: Float[Array, "3"]) -> Float[Array, "3 3"]:
    """The rotation with its third axis along `direction` and its first horizontal."""
    up = jnp.asarray([0.0, 0.0, 1.0], direction.dtype)
    third = direction / jnp.linalg.norm(direction)
    first = jnp.cross(up, third)
    first = first / jnp.linalg.norm(first)
    return jnp.stack([first, jnp.cross(third, first), third], axis=1)
