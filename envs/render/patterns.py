"""The two patterns of an image: the checkerboard floor and the sky's gradient."""

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
    """Share of a checkerboard's first colour in each pixel, from 0 to 1.

    Like a mipmap, this averages the pattern over a square on the plane, as wide as the
    longer side of the pixel's footprint: a distant board has one mean colour instead of
    aliasing.

    Args:
        checker: the pattern.
        frame: the plane that shows it.
        t: depth of the points, metres.
        rays: rays through the points.
        pixel: width of a pixel at depth 1.
    """
    toward = 1.0 / jnp.minimum(rays.dot(frame.axes[:, 2]), -_TINY)
    slope = [frame.axes[i, 2] * toward for i in range(2)]
    squares = [jnp.zeros_like(t)] * 2  # for one pixel to the right, and one up
    coordinates = []
    for axis, sign in ((0, 1), (1, -1)):  # rows of an image run downwards
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
    """Integral of the square wave: 1 in the first half of every unit, else -1."""
    part = u - jnp.floor(u)
    return 0.5 - jnp.abs(part - 0.5)


def sky_share(up: Float[Array, "3"], rays: Rays) -> Float[Array, "*rays"]:
    """Share of the sky's upper colour along each ray, from 0 to 1.

    Args:
        up: the world's vertical in the camera frame.
        rays: rays from the camera.
    """
    sine = rays.dot(up) * jax.lax.rsqrt(rays.square())
    square = sine * sine
    series = jnp.zeros_like(sine)
    for coefficient in reversed(_elevation_series()):
        series = series * square + coefficient
    return 0.5 + series * sine


@functools.cache
def _elevation_series() -> tuple[float, ...]:
    """Coefficients of odd powers of the sine of the elevation, fitted to MuJoCo's sky.

    The upper colour's share is 1/2 + p/√(2 (1 + p²)), with p the elevation over 90°;
    the series gives the second term. An arcsin per ray would cost as much as the rest
    of the image.
    """
    sine = np.linspace(-1, 1, 2001)
    p = np.arcsin(sine) * 2 / np.pi
    share = np.sqrt(2) * p / np.sqrt(1 + p * p) / 2
    powers = np.stack([sine**k for k in range(1, 10, 2)], axis=1)
    return tuple(float(c) for c in np.linalg.lstsq(powers, share)[0])
