"""`tolerance`, the soft indicator function of which dm_control's rewards consist."""

import math
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

Sigmoid = Literal["gaussian", "linear", "quadratic"]


def tolerance(
    x: Float[Array, "*shape"],
    *,
    bounds: tuple[float, float] = (0.0, 0.0),
    margin: float = 0.0,
    sigmoid: Sigmoid = "gaussian",
    value_at_margin: float = 0.1,
) -> Float[Array, "*shape"]:
    """1 inside the bounds, falling to `value_at_margin` at distance `margin`.

    With d = distance(x, bounds) / margin and v = value_at_margin, outside the bounds
        gaussian   v^(d²)
        linear     max(0, 1 - (1 - v) d)
        quadratic  max(0, 1 - (1 - v) d²)
    and 0 everywhere outside if `margin` is 0.

    Args:
        x: any shape.
        bounds: closed interval (lower, upper); may be infinite or a single point.
        margin: distance, in the units of x, at which the value is `value_at_margin`.
        sigmoid: the shape of the falloff.
        value_at_margin: in (0, 1) for gaussian, [0, 1) for the others.

    Raises:
        ValueError: an argument is outside its range.
    """
    lower, upper = bounds
    if lower > upper:
        raise ValueError(f"bounds={bounds}: the lower bound must not exceed the upper")
    if margin < 0:
        raise ValueError(f"margin={margin} must be 0 or positive")
    if not (
        0 < value_at_margin < 1 or (value_at_margin == 0 and sigmoid != "gaussian")
    ):
        raise ValueError(
            f"value_at_margin={value_at_margin} must lie in (0, 1), or be 0 with a "
            f"sigmoid that reaches 0; sigmoid is {sigmoid!r}"
        )
    inside = (lower <= x) & (x <= upper)
    if margin == 0:
        return inside.astype(x.dtype)
    # Clipping first avoids arithmetic with infinite bounds.
    distance = jnp.abs(x - jnp.clip(x, lower, upper)) / margin
    match sigmoid:
        case "gaussian":
            value = jnp.exp(math.log(value_at_margin) * distance**2)
        case "linear":
            value = jnp.maximum(0.0, 1 - (1 - value_at_margin) * distance)
        case "quadratic":
            value = jnp.maximum(0.0, 1 - (1 - value_at_margin) * distance**2)
        case _:
            raise ValueError(
                f"sigmoid={sigmoid!r} is unknown: use gaussian, linear or quadratic"
            )
    return jnp.where(inside, 1.0, value)
