"""Command-line flags from dataclass fields: name, type and range.

A flag is named after its field, or after `tyro.conf.arg(name=...)` where the two
differ. Nested dataclasses add nothing to the name, so every flag is flat. Ranges
are annotated on the field: `Annotated[int, Range(1)]`.
"""

import dataclasses
import difflib
import functools
import math
import re
import types
import typing
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from train.config.hints import value_hint
from train.errors import UserError


@dataclasses.dataclass(frozen=True)
class Range:
    """An interval of finite numbers; an open end does not belong to it."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"{'>' if self.open_low else '>='} {_number(self.low)}"
        left, right = "(" if self.open_low else "[", ")" if self.open_high else "]"
        return f"in {left}{_number(self.low)}, {_number(self.high)}{right}"

    def nearest(self, value: float) -> float | None:
        """The allowed value nearest to `value`; None beside an open end or for NaN."""
        if value < self.low or (value == self.low and self.open_low):
            return None if self.open_low else self.low
        if value > self.high or (value == self.high and self.open_high):
            return None if self.open_high or math.isinf(self.high) else self.high
        return None


class Joined:
    """Marks a text that may be given in several flags of the same name."""


# Counters on the device are 32-bit integers.
MAX_COUNT = 2**31 - 1
Count = Annotated[int, Range(1, MAX_COUNT)]
Positive = Annotated[float, Range(0, open_low=True)]
NonNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
DecayRate = Annotated[float, Range(0, 1, open_high=True)]


@dataclasses.dataclass(frozen=True)
class Flag:
    """One command-line flag and the field that it sets."""

    name: str
    """With the dashes: `--penalty-target`."""
    path: tuple[str, ...]
    """Attribute names from the root: `("penalty", "target")`."""
    kind: type
    """`bool`, `int`, `float` or `str`."""
    default: Any
    choices: tuple[str, ...] | None
    optional: bool
    """Whether the value may be None."""
    range: Range | None
    joined: bool = False
    """Given several times, the values are joined by spaces."""


def invalid(
    flag: str, value: object, why: str, allowed: str, nearest: str | None = None
) -> UserError:
    """The error about a flag's value, in the form that all of them have."""
    hint = "" if nearest is None else f"; nearest valid: {nearest}"
    return UserError(f"{flag} {value}: {why}; allowed: {allowed}{hint}")


@functools.cache
def flags(cls: type) -> tuple[Flag, ...]:
    """All flags of a dataclass, nested ones included, in the order written."""
    hints = typing.get_type_hints(cls, include_extras=True)
    found: list[Flag] = []
    for field in dataclasses.fields(cls):
        kind, extras = _unwrap(hints[field.name])
        if dataclasses.is_dataclass(kind):
            found += [
                dataclasses.replace(flag, path=(field.name, *flag.path))
                for flag in flags(typing.cast(type, kind))
            ]
            continue
        choices, optional = None, False
        if typing.get_origin(kind) in (types.UnionType, typing.Union):
            members = [m for m in typing.get_args(kind) if m is not types.NoneType]
            kind, inner = _unwrap(members[0])
            extras, optional = extras + inner, True
        if typing.get_origin(kind) is Literal:
            choices, kind = typing.get_args(kind), str
        names = [name for e in extras if (name := getattr(e, "name", None))]
        found.append(
            Flag(
                name="--" + (names[0] if names else field.name.replace("_", "-")),
                path=(field.name,),
                kind=kind,
                default=field.default,
                choices=choices,
                optional=optional,
                range=next((e for e in extras if isinstance(e, Range)), None),
                joined=any(isinstance(e, Joined) for e in extras),
            )
        )
    return tuple(found)


def _unwrap(hint: Any) -> tuple[Any, list[Any]]:
    """Split `Annotated[kind, extras...]`."""
    if typing.get_origin(hint) is Annotated:
        kind, *extras = typing.get_args(hint)
        return kind, extras
    return hint, []


def parse_value(flag: Flag, text: str) -> Any:
    """The value written as `text` on the command line, e.g. 1e6 for an integer.

    Raises:
        UserError: the text is not a valid value of this flag, or is out of range.
    """
    if flag.optional and text.lower() == "none":
        return None
    if flag.kind is str:
        value: Any = text
    else:
        try:
            value = float(text)
        except ValueError:
            noun = "an integer" if flag.kind is int else "a number"
            why = f"not {noun}"
            raise invalid(flag.name, text, why, allowed_values(flag)) from None
        if flag.kind is int and math.isfinite(value):
            # int("123") keeps digits that a float would round; 1e6 needs the float.
            exact = text.lstrip("+-").replace("_", "").isdecimal()
            if not exact and not value.is_integer():
                near = f"{math.floor(value)} or {math.ceil(value)}"
                why = "not an integer"
                raise invalid(flag.name, text, why, allowed_values(flag), near)
            value = int(text) if exact else int(value)
    check_value(flag, value, shown=text)
    return value


def check_value(flag: Flag, value: Any, *, shown: str = "") -> None:
    """Check the type, the choices and the range of a value.

    Raises:
        UserError: naming the flag, the value, what is allowed and what is nearest.
    """
    shown = shown or str(value)
    if value is None and flag.optional:
        return
    if flag.choices is not None and value not in flag.choices:
        near = value_hint(flag.name, str(value)) or nearest(str(value), flag.choices)
        raise invalid(flag.name, shown, "unknown", ", ".join(flag.choices), near)
    if flag.kind is bool or isinstance(value, bool):
        fits = flag.kind is type(value)
    elif flag.kind is int:  # NaN and infinity are answered by the range below
        fits = isinstance(value, int) or (
            isinstance(value, float) and not math.isfinite(value)
        )
    else:
        fits = isinstance(value, (int, float) if flag.kind is float else flag.kind)
    if not fits:
        why = f"expected {flag.kind.__name__}, got {type(value).__name__}"
        raise invalid(flag.name, shown, why, allowed_values(flag))
    if isinstance(value, int | float) and not isinstance(value, bool):
        allowed = flag.range or Range()
        if value not in allowed:
            near = allowed.nearest(value)
            near = None if near is None else _number(near)
            raise invalid(flag.name, shown, "out of range", allowed_values(flag), near)


def check_fields(part: object) -> None:
    """Check each field of a dataclass, nested ones excepted.

    Raises:
        UserError: a value is of another type, no choice, or out of range.
    """
    for flag in flags(type(part)):
        if len(flag.path) == 1:
            check_value(flag, getattr(part, flag.path[0]))


def allowed_values(flag: Flag) -> str:
    """The values a flag takes, in words."""
    if flag.choices is not None:
        return ", ".join(flag.choices)
    if flag.kind is str:
        return "any text"
    noun = "an integer" if flag.kind is int else "a finite number"
    if flag.range is None or math.isinf(flag.range.low):
        return noun
    return f"{noun} {flag.range}"


def _number(value: float) -> str:
    """All digits of an integer, six of another number."""
    return str(int(value)) if float(value).is_integer() else f"{value:g}"


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice closest to `word`; None where there are no choices.

    Sizes such as 13m are compared as numbers, other words by their letters.
    """
    choices = list(choices)
    size = _leading_number(word)
    sized = [c for c in choices if _leading_number(c) is not None]
    if size is not None and sized:
        return min(sized, key=lambda c: abs((_leading_number(c) or 0) - size))
    return next(
        iter(difflib.get_close_matches(word.lower(), choices, n=1, cutoff=0.0)), None
    )


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`; nearest valid: x` for the choice closest to `word`."""
    near = nearest(word, choices)
    return "" if near is None else f"; nearest valid: {near}"


def _leading_number(word: str) -> float | None:
    match = re.match(r"\d+(\.\d+)?", word)
    return float(match[0]) if match else None
