"""Intersections of camera rays with shapes, and normals of their surfaces.

Everything is in the camera frame: the camera sits at the origin and looks along -z. A
ray is t (x, y, -1), so `t` is the depth of a point in metres, and the inner product of
a ray with a constant vector takes two multiplications. The formulas are arranged for
that, and for discriminants without cancellation.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from envs.render.scene import BOX, CAPSULE, CYLINDER, ELLIPSOID, PLANE, SPHERE, Solid

_TINY = 1e-9

type Vector = Sequence[Array] | Array


class Rays(NamedTuple):
    """Rays from the camera through the points (x, y, -1)."""

    x: Float[Array, "*rays"]
    y: Float[Array, "*rays"]

    def dot(self, vector: Float[Array, "3"]) -> Float[Array, "*rays"]:
        """Inner product of every ray with a vector."""
        return self.x * vector[0] + self.y * vector[1] - vector[2]

    def square(self) -> Float[Array, "*rays"]:
        """Squared length of every ray."""
        return self.x * self.x + self.y * self.y + 1.0


class Frame(NamedTuple):
    """A solid's centre and axes (the columns) in the camera frame."""

    center: Float[Array, "3"]
    axes: Float[Array, "3 3"]


def depth(
    solid: Solid, frame: Frame, rays: Rays
) -> tuple[Float[Array, "*rays"], Bool[Array, "*rays"]]:
    """Depth in metres at which rays enter a solid, and whether they hit it.

    The camera must be outside the solid. A plane is visible from its front only.

    Args:
        solid: type and size of the shape.
        frame: its position and orientation.
        rays: rays from the camera.
    """
    return _ENTRY[solid.kind](solid.size, frame, rays)


def _plane(size, frame, rays):
    normal = frame.axes[:, 2]
    toward = rays.dot(normal)
    height = -inner(frame.center, normal)
    t = -height / jnp.minimum(toward, -_TINY)
    hit = (toward < 0) & (height > 0)
    for axis in (0, 1):
        if size[axis] > 0:
            hit &= jnp.abs(on_axis(frame, axis, t, rays)) <= size[axis]
    return t, hit


def inner(left: Vector, right: Vector) -> Float[Array, "*rays"]:
    """Inner product of two vectors, given by their three components."""
    return left[0] * right[0] + left[1] * right[1] + left[2] * right[2]


def on_axis(
    frame: Frame, axis: int, t: Float[Array, "*rays"], rays: Rays
) -> Float[Array, "*rays"]:
    """Coordinate of the points at depth `t` along one of the solid's axes."""
    direction = frame.axes[:, axis]
    return t * rays.dot(direction) - inner(frame.center, direction)


def _sphere(size, frame, rays):
    radius = size[0]
    cx, cy, cz = frame.center
    across = (rays.y * cz + cy, cx + rays.x * cz, rays.x * cy - rays.y * cx)
    square = rays.square()
    inside = radius * radius * square - inner(across, across)
    t = (rays.dot(frame.center) - jnp.sqrt(jnp.maximum(inside, 0.0))) / square
    return t, inside >= 0


def _capsule(size, frame, rays):
    radius, half, _ = size
    axis, center = frame.axes[:, 2], frame.center
    middle = -inner(center, axis)  # the camera's coordinate along the axis
    along, square, toward = rays.dot(axis), rays.square(), -rays.dot(center)
    steep = jnp.maximum(square - along * along, 1e-7)
    offset = rays.dot(jnp.cross(center, axis))
    inside = radius * radius * steep - offset * offset
    reach = toward - middle * along
    side = (-reach - jnp.sqrt(jnp.maximum(inside, 0.0))) / steep
    z = middle + side * along

    end = jnp.sign(z) * half
    ahead = toward - end * along
    outside = inner(center, center) + half * half - radius * radius - 2 * end * middle
    cap_inside = ahead * ahead - square * outside
    cap = (-ahead - jnp.sqrt(jnp.maximum(cap_inside, 0.0))) / square

    on_side = jnp.abs(z) <= half
    t = jnp.where(on_side, side, cap)
    return t, (inside >= 0) & (on_side | (cap_inside >= 0))


def _ellipsoid(size, frame, rays):
    inverse = [1.0 / s for s in size]
    d = [rays.dot(frame.axes[:, i] * inverse[i]) for i in range(3)]
    o = [-inner(frame.center, frame.axes[:, i]) * inverse[i] for i in range(3)]
    across = (
        d[1] * o[2] - d[2] * o[1],
        d[2] * o[0] - d[0] * o[2],
        d[0] * o[1] - d[1] * o[0],
    )
    square = inner(d, d)
    inside = square - inner(across, across)
    toward = inner(d, o)
    t = (-toward - jnp.sqrt(jnp.maximum(inside, 0.0))) / square
    return t, inside >= 0


def _slab(size, frame, axis, rays):
    """Depths at which rays enter and leave the space between two parallel planes."""
    toward = rays.dot(frame.axes[:, axis])
    toward = jnp.where(jnp.abs(toward) < _TINY, _TINY, toward)
    inverse = 1.0 / toward
    middle = inner(frame.center, frame.axes[:, axis]) * inverse
    half = size * jnp.abs(inverse)
    return middle - half, middle + half


def _box(size, frame, rays):
    slabs = [_slab(size[axis], frame, axis, rays) for axis in range(3)]
    enter = jnp.maximum(jnp.maximum(slabs[0][0], slabs[1][0]), slabs[2][0])
    leave = jnp.minimum(jnp.minimum(slabs[0][1], slabs[1][1]), slabs[2][1])
    return enter, enter <= leave


def _cylinder(size, frame, rays):
    radius, half, _ = size
    axis, center = frame.axes[:, 2], frame.center
    along = rays.dot(axis)
    # |d × axis|² by its components: no cancellation where a ray is near the axis.
    first, second = rays.dot(frame.axes[:, 0]), rays.dot(frame.axes[:, 1])
    steep = jnp.maximum(first * first + second * second, _TINY)
    offset = rays.dot(jnp.cross(center, axis))
    inside = radius * radius * steep - offset * offset
    reach = inner(center, axis) * along - rays.dot(center)
    root = jnp.sqrt(jnp.maximum(inside, 0.0))
    bottom, top = _slab(half, frame, 2, rays)
    enter = jnp.maximum((-reach - root) / steep, bottom)
    leave = jnp.minimum((-reach + root) / steep, top)
    return enter, (inside >= 0) & (enter <= leave)


_ENTRY = {
    PLANE: _plane,
    SPHERE: _sphere,
    CAPSULE: _capsule,
    ELLIPSOID: _ellipsoid,
    CYLINDER: _cylinder,
    BOX: _box,
}


def normal(
    solid: Solid,
    frame: Frame,
    point: tuple[Float[Array, "*rays"], Float[Array, "*rays"], Float[Array, "*rays"]],
) -> list[Float[Array, "*rays"]]:
    """The three components of the outward unit normal at points of the surface."""
    if solid.kind == PLANE:
        return [jnp.broadcast_to(c, point[0].shape) for c in frame.axes[:, 2]]
    offset = [p - c for p, c in zip(point, frame.center, strict=True)]
    axis = frame.axes[:, 2]

    if solid.kind == SPHERE:
        return [o / solid.size[0] for o in offset]
    if solid.kind == CAPSULE:
        z = jnp.clip(inner(offset, axis), -solid.size[1], solid.size[1])
        return [(o - z * a) / solid.size[0] for o, a in zip(offset, axis, strict=True)]
    if solid.kind == CYLINDER:
        radius, half = solid.size[:2]
        z = inner(offset, axis)
        radial = [o - z * a for o, a in zip(offset, axis, strict=True)]
        distance = jnp.sqrt(inner(radial, radial))
        flat = jnp.abs(z) - half > distance - radius
        side = 1.0 / jnp.maximum(distance, _TINY)
        return [
            jnp.where(flat, jnp.sign(z) * a, r * side)
            for r, a in zip(radial, axis, strict=True)
        ]
    scaled = [inner(offset, frame.axes[:, i]) / solid.size[i] for i in range(3)]
    if solid.kind == ELLIPSOID:
        gradient = [scaled[i] / solid.size[i] for i in range(3)]
        length = jnp.sqrt(inner(gradient, gradient))
        local = [x / length for x in gradient]
    else:
        sizes = [jnp.abs(x) for x in scaled]
        largest = functools.reduce(jnp.maximum, sizes)
        local = [jnp.where(jnp.abs(x) == largest, jnp.sign(x), 0.0) for x in scaled]
    return [inner(local, frame.axes[j]) for j in range(3)]
