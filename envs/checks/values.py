"""Checks of numbers, limits and names."""

import math
import operator
from typing import Any

import numpy as np

MAX_STEPS = 2**31 - 1
"""Steps are counted in int32."""


def whole(name: str, value: Any, *, high: int = MAX_STEPS, hint: str = "") -> int:
    """`value` as an int, from 1 to `high`.

    Raises:
        ValueError: it is not an integer, or out of range.
    """
    allowed = f"an integer from 1 to {high}{hint}"
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name}={value!r} must be {allowed}") from None
    if not 1 <= number <= high:
        least = "at least 1" if number < 1 else allowed
        raise ValueError(f"{name}={value} must be {least}")
    return number


def length(name: str, value: Any) -> int:
    """`value` as an int, at least 0."""
    return 0 if value == 0 else whole(name, value)


def limits(low: Any, high: Any) -> tuple[float, float]:
    """The bounds of an action as floats.

    Raises:
        ValueError: they are not finite, or `low` is not below `high`.
    """
    if not -math.inf < low < high < math.inf:
        raise ValueError(
            f"action_low={low}, action_high={high}: both must be finite, and the "
            "second above the first"
        )
    return float(low), float(high)


def positive(name: str, value: Any) -> float:
    """`value` as a float that is finite and above 0.

    Raises:
        ValueError: it is not.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"{name}={value!r} must be a finite number above 0")
    return number


def episode(action_repeat: Any, episode_steps: Any) -> tuple[int, int]:
    """Both as ints, `action_repeat` a divisor of `episode_steps`.

    Raises:
        ValueError: they are not.
    """
    hint = " control steps (an episode without a time limit: 1_000_000)"
    steps = whole("episode_steps", episode_steps, hint=hint)
    try:
        repeat = whole("action_repeat", action_repeat)
    except ValueError:
        repeat = 0
    if not repeat or steps % repeat:
        divisors = [n for n in range(1, 11) if steps % n == 0]
        raise ValueError(
            f"action_repeat={action_repeat} must be a positive divisor of the "
            f"{steps} control steps of an episode, such as {divisors}"
        )
    return repeat, steps


def label(name: str, value: Any) -> str:
    """`value`, which must be a line of text.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError(f"{name}={value!r} must be a line of text, such as 'my-robot'")
    return value
