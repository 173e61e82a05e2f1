"""A string between two sites, drawn as MuJoCo draws it: a chain of short capsules.

A slack string hangs in a catenary; a taut one is straight.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

LINKS = 12  # capsules per string; MuJoCo uses 28

# Ratio of length to span above which a string hangs straight down and up.
_STEEPEST = 1e3


def links(
    start: Float[Array, "3"], end: Float[Array, "3"], length: float
) -> tuple[Float[Array, "links 3"], Float[Array, "links 3 3"]]:
    """Centres and orientations of the capsules of a string under gravity along -z.

    Args:
        start: position of one end, metres.
        end: position of the other end, metres.
        length: length of the string without tension, metres; it stretches if the ends
            are farther apart.

    Returns:
        Centres, and rotations with the third axis along the string.
    """
    points = hanging(start, end, length, count=LINKS + 1)
    axis = points[1:] - points[:-1]
    norm = jnp.linalg.norm(axis, axis=-1, keepdims=True)
    axis = jnp.where(
        norm > 0, axis / jnp.maximum(norm, 1e-9), jnp.asarray([[0.0, 0, 1]])
    )
    # The cross product with the world axis that the link is least along is never 0.
    least = jnp.abs(axis) == jnp.min(jnp.abs(axis), axis=-1, keepdims=True)
    side = jnp.cross(axis, least.astype(axis.dtype))
    side = side / jnp.linalg.norm(side, axis=-1, keepdims=True)
    rotation = jnp.stack([jnp.cross(side, axis), side, axis], axis=-1)
    return (points[1:] + points[:-1]) / 2, rotation


def hanging(
    start: Float[Array, "3"], end: Float[Array, "3"], length: float, *, count: int
) -> Float[Array, "count 3"]:
    """Points on a hanging string, equally spaced along it.

    With span h and drop v between the ends, y = a cosh(x/a) has arc length L where
    a sinh(h/2a) = √(L²−v²)/2, and its middle is at tanh(x/a) = v/L.
    """
    share = jnp.linspace(0.0, 1.0, count)[:, None]
    straight = start[None] + share * (end - start)[None]

    across = (end - start).at[2].set(0.0)
    span = jnp.maximum(jnp.linalg.norm(across), length / _STEEPEST)
    drop = end[2] - start[2]
    taut = jnp.sum((end - start) ** 2) >= (0.9999 * length) ** 2
    ratio = jnp.sqrt(jnp.maximum(length**2 - drop**2, 0.0)) / span
    ratio = jnp.where(taut, 2.0, jnp.clip(ratio, 1 + 1e-6, _STEEPEST))
    half = _arc_over_span(ratio)  # h/2a
    scale = span / (2 * half)
    first = jnp.arctanh(jnp.clip(jnp.where(taut, 0.0, drop / length), -0.9999, 0.9999))
    first = first - half
    angle = jnp.arcsinh(jnp.sinh(first) + share * length / scale)
    forward = scale * (angle - first) / span
    height = scale * (jnp.cosh(angle) - jnp.cosh(first))
    up = jnp.asarray([[0.0, 0.0, 1.0]])
    slack = start[None] + forward * across[None] + height * up
    return jnp.where(taut, straight, slack)


def _arc_over_span(ratio: Float[Array, ""]) -> Float[Array, ""]:
    """Solves sinh(z)/z = ratio for z > 0, by Newton's method on the logarithms."""
    near = jnp.sqrt(6 * (ratio - 1))
    far = jnp.log(2 * ratio) + jnp.log(jnp.maximum(jnp.log(2 * ratio), 1.0))
    z = jnp.where(ratio < 3, near, far)
    for _ in range(5):
        error = jnp.log(jnp.sinh(z) / z) - jnp.log(ratio)
        z = jnp.maximum(z - error / (1 / jnp.tanh(z) - 1 / z), 1e-3)
    return z
