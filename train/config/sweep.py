"""`--sweep`: hyperparameters that differ between the agents of one program.

Their values are numbers inside the compiled program, one for each agent, so agents of
all values are trained side by side as those of several seeds are. Agents with the same
seed begin with the same weights and random numbers, whatever their values.
"""

import copy
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from train.config.fields import Flag, flags, invalid, nearest, parse_value
from train.errors import UserError

if TYPE_CHECKING:
    from train.config.schema import Config

SWEPT = (
    "--lambda0",
    "--lambda0-prior",
    "--lambda-min",
    "--decay-scale",
    "--learning-rate",
    "--agc-floor",
    "--beta1",
    "--beta2",
    "--eps",
    "--discount-horizon",
    "--return-lambda",
    "--entropy",
    "--reconstruction-scale",
    "--reward-scale",
    "--continue-scale",
    "--dynamics-scale",
    "--representation-scale",
    "--policy-scale",
    "--value-scale",
    "--replay-value-scale",
    "--free-nats",
    "--slow-rate",
    "--return-norm-rate",
    "--return-norm-limit",
)
"""Flags whose values are nothing but numbers in the compiled program."""

Values = dict[str, float]
"""A number for each of some flags."""


class Variant(NamedTuple):
    """One agent of a run.

    Attributes:
        seed: to be added to the run's `--seed`.
        values: what it has in place of the configuration's values, by flag.
        label: the swept values in words, empty without a sweep.
    """

    seed: int
    values: Values
    label: str

    @property
    def folder(self) -> str:
        """Name of its log directory: `seed_0`, or `seed_0,lambda0=0.1`."""
        return ",".join(filter(None, (f"seed_{self.seed}", self.label)))


def read(cls: type, text: str) -> dict[str, tuple[float, ...]]:
    """The values of each swept flag, in the order given.

    Args:
        cls: the configuration's class.
        text: `lambda0=0,0.1 learning-rate=1e-4,4e-5`.

    Raises:
        UserError: an unknown flag, one that cannot be swept, or values not allowed.
    """
    known = {flag.name: flag for flag in flags(cls)}
    found: dict[str, tuple[float, ...]] = {}
    for part in text.split():
        word, equals, values = part.partition("=")
        name = "--" + word.removeprefix("--").replace("_", "-")
        if not equals or not values:
            raise invalid("--sweep", part, "no values", "NAME=VALUE,VALUE,...")
        _check_name(name, known)
        if name in found:
            raise invalid("--sweep", part, f"{name} is swept twice", "once")
        numbers = tuple(parse_value(known[name], value) for value in values.split(","))
        if len(set(numbers)) < len(numbers):
            raise invalid("--sweep", part, "a value stands there twice", "once")
        found[name] = numbers
    if found and math.prod(map(len, found.values())) == 1:
        plain = " ".join(f"{name} {values[0]:g}" for name, values in found.items())
        raise invalid("--sweep", text, "one setting", "several values", plain)
    return found


def _check_name(name: str, known: Mapping[str, Flag]) -> None:
    allowed = ", ".join(flag[2:] for flag in SWEPT)
    if name not in known:
        near = nearest(name, SWEPT)
        raise invalid("--sweep", name[2:], "unknown flag", allowed, near and near[2:])
    if name not in SWEPT:
        raise UserError(
            f"--sweep {name[2:]}: is no number inside the program, which its values "
            f"could share; allowed: {allowed}; or arms of python -m benchmarks.suite"
        )


def canonical(cls: type, text: str) -> str:
    """The same sweep, written in the one way in which runs are compared.

    Raises:
        UserError: see `read`.
    """
    swept = read(cls, text)
    return " ".join(_written(name, *values) for name, values in swept.items())


def _written(name: str, *values: float) -> str:
    return f"{name[2:]}={','.join(f'{value:.12g}' for value in values)}"


def variants(config: "Config") -> list[Variant]:
    """The agents of a run in their order: all seeds of the first setting first."""
    swept = read(type(config), config.sweep)
    found = []
    for values in itertools.product(*swept.values()):
        setting = dict(zip(swept, values, strict=True))
        label = ",".join(_written(name, value) for name, value in setting.items())
        setting = _suited(config, swept, setting)
        found += [Variant(seed, setting, label) for seed in range(config.seeds)]
    return found


def _suited(
    config: "Config", swept: Mapping[str, Sequence[float]], values: Values
) -> Values:
    """λ_min that suits this agent's λ0, where λ0 alone is swept.

    With target core λ is constant by default: λ_min follows λ0. An agent whose
    coefficients are all 0 has no penalty: its λ_min is 0.
    """
    penalty = config.penalty
    if "--lambda0" not in swept or "--lambda-min" in swept:
        return values
    if penalty.target == "core" and penalty.lambda_min == penalty.lambda0:
        return values | {"--lambda-min": values["--lambda0"]}
    if 0 not in swept["--lambda0"]:
        return values
    prior = values.get("--lambda0-prior", penalty.lambda0_prior)
    least = penalty.lambda_min if values["--lambda0"] or prior else 0.0
    return values | {"--lambda-min": least}


def check_sweep(config: "Config") -> None:
    """Refuse a sweep in which one agent's settings are not allowed.

    Raises:
        UserError: see `read`; or what that agent's run alone would be refused with.
    """
    for variant in variants(config)[:: config.seeds]:
        changed = with_values(config, {**variant.values, "--sweep": ""})
        for part in vars(changed).values():
            if dataclasses.is_dataclass(part) and not isinstance(part, type):
                dataclasses.replace(
                    part
                )  # checks its values, as does that of the whole
        dataclasses.replace(changed)


def with_values(config: "Config", values: Mapping[str, Any]) -> "Config":
    """The configuration with other values by flag, which may be traced arrays.

    They are not checked: comparisons of traced values are not possible.
    """
    for flag in flags(type(config)):
        if flag.name in values:
            config = _set(config, flag.path, values[flag.name])
    return config


def _set(part: Any, path: tuple[str, ...], value: Any) -> Any:
    name, *rest = path
    changed = copy.copy(part)
    inner = _set(getattr(part, name), tuple(rest), value) if rest else value
    object.__setattr__(changed, name, inner)  # the dataclass is frozen
    return changed


def of_folder(name: str) -> tuple[int, dict[str, float]] | None:
    """Seed and values of an agent from its log directory's name; None for another."""
    seed, *settings = name.split(",")
    number = seed.removeprefix("seed_")
    if not seed.startswith("seed_") or not number.isdecimal():
        return None
    pairs = (setting.partition("=") for setting in settings)
    try:
        return int(number), {f"--{key}": float(value) for key, _, value in pairs}
    except ValueError:
        return None
