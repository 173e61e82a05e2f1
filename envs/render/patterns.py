"""The two patterns that a picture shows: a checkerboard floor and the sky."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from envs.render.scene import Checker
from envs.render.shapes import Frame, Rays, on_axis

_TINY = 1e-9


def checks(
    checker: Checker,
    frame: Frame,
    t: Float[Array, "*rays"],
    rays: Rays,
    pixel: float,
) -> Float[Array, "*rays"]:
    """How much of a checkerboard's first colour a pixel sees, from 0 to 1.

    The pattern is averaged over a box as wide as the pixel is on the plane, the wider
    way, as a mipmap is: a board far away is of one colour instead of glittering.

    Args:
        checker: the pattern.
        frame: the plane that shows it.
        t: depth of the points.
        rays: rays to them.
        pixel: width of a pixel at depth 1.
    """
    toward = 1.0 / jnp.minimum(rays.dot(frame.axes[:, 2]), -_TINY)
    slope = [frame.axes[i, 2] * toward for i in range(2)]
    squares = [jnp.zeros_like(t)] * 2  # of a step to the right, and of one up
    coordinates = []
    for axis, sign in ((0, 1), (1, -1)):  # rows of a picture go down
        scale = sign * checker.repeat[axis] / 2
        place = on_axis(frame, axis, t, rays) + sign * checker.corner[axis]
        coordinates.append(scale * place)
        along = rays.dot(frame.axes[:, axis])
        for i in range(2):
            step = (frame.axes[i, axis] - along * slope[i]) * (scale * t * pixel)
            squares[i] = squares[i] + step * step
    width = jnp.sqrt(jnp.maximum(squares[0], squares[1]))
    wide = jnp.maximum(width, 1e-4)
    waves = []
    for u in coordinates:
        low, high = (_area(u + side * wide) for side in (-0.5, 0.5))
        waves.append((high - low) / wide)
    return 0.5 + 0.5 * waves[0] * waves[1]


def _area(u):
    """Integral of the wave that is 1 in the first half of every unit, else -1."""
    part = u - jnp.floor(u)
    return 0.5 - jnp.abs(part - 0.5)


def sky_share(up: Float[Array, "3"], rays: Rays) -> Float[Array, "*rays"]:
    """How much of its upper colour the sky shows along each ray, from 0 to 1.

    Args:
        up: the world's vertical in the frame of the camera.
        rays: the rays.
    """
    sine = rays.dot(up) * jax.lax.rsqrt(rays.square())
    square = sine * sine
    series = jnp.zeros_like(sine)
    for coefficient in reversed(_elevation_series()):
        series = series * square + coefficient
    return 0.5 + series * sine


@functools.cache
def _elevation_series() -> tuple[float, ...]:
    """MuJoCo's sky gradient less 1/2, as odd powers of the sine of the elevation.

    The share of the upper colour is (1 + √2 p/√(1+p²))/2 with p the elevation over
    90°. The arc sine alone would cost as much as the rest of the picture.
    """
    sine = np.linspace(-1, 1, 2001)
    p = np.arcsin(sine) * 2 / np.pi
    share = np.sqrt(2) * p / np.sqrt(1 + p * p) / 2
    powers = np.stack([sine**k for k in range(1, 10, 2)], axis=1)
    return tuple(float(c) for c in np.linalg.lstsq(powers, share)[0])
