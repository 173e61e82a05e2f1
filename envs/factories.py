"""User-defined environments, by a registered name or the path of a factory.

Either `register` a name, or use the path `my_robot:make` of the function `make` in the
module `my_robot`. The path also works on the command line,
`python -m train.main --env my_robot:make`, and when a run is resumed.
"""

import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any

from envs.base import Env

Factory = Callable[..., Env]
"""Called with two keywords: `name`, for `EnvSpec.name`, and `action_repeat`."""

_FACTORIES: dict[str, Factory] = {}


def add(name: str, factory: Factory, *, replace: bool = False) -> None:
    """Register a factory under a name; see `envs.register`.

    Raises:
        ValueError: the name has other characters or was added before, or the factory
            cannot be called with its two keywords.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ValueError(
            f"name={name!r}: use letters, digits, '-', '_' and '.', beginning with a "
            "letter or digit"
        )
    same = [old for old in _FACTORIES if plain(old) == plain(name)]
    if same and not replace:
        raise ValueError(
            f"name={name!r} was registered before as {same[0]!r}: choose another, or "
            "pass replace=True"
        )
    _check_factory(f"factory of {name!r}", factory)
    for old in same:
        del _FACTORIES[old]
    _FACTORIES[name] = factory


def registered() -> tuple[str, ...]:
    """All registered names, in order."""
    return tuple(_FACTORIES)


def is_path(name: str) -> bool:
    """Whether a name has the form `module:attribute`."""
    return ":" in name


def factory_of(name: str) -> Factory:
    """The factory of a registered name, or of `module:attribute`, which is imported.

    Raises:
        ValueError: there is none, or it cannot be called as a factory.
    """
    if not is_path(name):
        return _FACTORIES[name]
    module_name, _, attribute = name.partition(":")
    where = f"env={name!r}"
    if not module_name or not attribute:
        raise ValueError(
            f"{where}: the form is module:attribute, such as my_robot:make"
        )
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # An import error inside the module is not ours: show it in full.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"{where}: Python finds no module {error.name!r}: run in the folder that "
            "holds it, or put that folder on PYTHONPATH"
        ) from None
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{where}: {module_name} has no attribute {attribute!r}")
        found = getattr(found, part)
    _check_factory(where, found)
    return found


def make_registered(name: str, *, action_repeat: int) -> Env:
    """Call the factory of a name.

    Raises:
        ValueError: it does not return an `Env` with this `action_repeat`.
    """
    env = factory_of(name)(name=name, action_repeat=action_repeat)
    if not isinstance(env, Env):
        raise ValueError(
            f"env={name!r}: its factory returned {type(env).__name__}, which is no "
            "envs.Env: return envs.from_mjx(...), or derive your class from envs.Env"
        )
    if env.spec.action_repeat != action_repeat:
        raise ValueError(
            f"env={name!r}: asked for action_repeat={action_repeat}, its factory "
            f"returned one with {env.spec.action_repeat}: hand action_repeat on"
        )
    return env


def plain(name: str) -> str:
    """A name in lower case, with `_` for `-`, for comparisons."""
    return name.lower().replace("-", "_")


def _check_factory(what: str, factory: object) -> None:
    if not callable(factory):
        raise ValueError(f"{what} is {type(factory).__name__}, which cannot be called")
    try:
        inspect.signature(factory).bind(name="", action_repeat=1)
    except TypeError as error:
        raise ValueError(
            f"{what} must take the keywords name and action_repeat: {error}"
        ) from None
    except ValueError:  # something without a signature; calling it will tell
        return
