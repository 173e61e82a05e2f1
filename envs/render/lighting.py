"""Diffuse (Lambertian) lighting of surfaces, without shadows or highlights."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from envs.render.pose import Pose, to_camera
from envs.render.scene import Light, Scene
from envs.render.shapes import inner

type Triple = Sequence[Float[Array, "*rays"]]


def light(
    scene: Scene,
    pose: Pose,
    point: Triple,
    facing: Triple,
    textured: Bool[Array, "*rays"],
) -> list[Float[Array, "*rays"]]:
    """Light at surface points: one array if all lights are grey, else one per channel.

    Args:
        scene: the scene; its lights and its headlight are used.
        pose: positions and directions of the lights.
        point: coordinates of the points in the camera frame, metres.
        facing: unit normals of the surface at the points, in the camera frame.
        textured: whether the surface has a texture. MuJoCo clips each light at 1
            before it multiplies a texture; on plain surfaces it clips the product.
    """
    colors = [scene.head_ambient, scene.head_diffuse]
    colors += [c for lamp in scene.lights for c in (lamp.ambient, lamp.diffuse)]
    rows = range(1 if all(len(set(c)) == 1 for c in colors) else 3)

    def cut(value):
        return jnp.where(textured, jnp.minimum(value, 1.0), value)

    # The headlight shines along the optical axis.
    toward = jnp.maximum(facing[2], 0.0)
    total = [cut(scene.head_ambient[c] + scene.head_diffuse[c] * toward) for c in rows]
    for number, lamp in enumerate(scene.lights):
        place = to_camera(pose, pose.light_position[number] - pose.camera_position)
        direction = to_camera(pose, pose.light_direction[number])
        strength, fall = _beam(lamp, place, direction, point, facing)
        for c in rows:
            total[c] += cut(strength * (lamp.ambient[c] + lamp.diffuse[c] * fall))
    return total


def _beam(
    lamp: Light, place: Array, direction: Array, point: Triple, facing: Triple
) -> tuple[Array | float, Array]:
    """Intensity of a light at the points, and the cosine of its angle of incidence."""
    if not lamp.spot:
        return 1.0, jnp.maximum(-inner(facing, direction), 0.0)
    ray = [place[i] - point[i] for i in range(3)]
    square = inner(ray, ray)
    inverse = jax.lax.rsqrt(square)
    fall = jnp.maximum(inner(facing, ray) * inverse, 0.0)
    cosine = -inner(ray, direction) * inverse
    cone = jnp.maximum(cosine, 0.0) ** _whole(lamp.exponent)
    cone = jnp.where(cosine >= lamp.cos_cutoff, cone, 0.0)
    constant, linear, quadratic = lamp.attenuation
    return cone / (constant + linear * square * inverse + quadratic * square), fall


def _whole(power: float) -> int | float:
    """An integral exponent as an int: XLA turns that power into multiplications."""
    return int(power) if power == int(power) else power
