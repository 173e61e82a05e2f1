"""Check that `kernels`, `envs`, `core` and `benchmarks` are those of this project.

Other distributions install top-level packages with the same names. Whichever comes
first on `sys.path` is imported, silently.
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

import train
from train.errors import UserError

PACKAGES = ("kernels", "core", "envs", "benchmarks")


def check_origin(packages: Sequence[str] = PACKAGES) -> None:
    """Raise `UserError` if a package does not lie beside `train`.

    Nothing is imported for it: the import system is asked where it would look. A
    package that is loaded already is judged by where it came from.
    """
    home = _folder(train.__path__)
    for name in packages:
        found = _find(name)
        if found == home / name:
            continue
        place = "is not there" if found is None else f"would come from {found}"
        raise UserError(
            f"package {name!r} {place}, but smooth-dreamer, which lives in {home}, "
            f"brings its own; use an environment of its own (`uv run` in the checkout "
            f"makes one), or uninstall the other distribution and clear PYTHONPATH"
        )


def _find(name: str) -> Path | None:
    module = sys.modules.get(name)
    if module is not None:
        return _module_folder(module.__spec__)
    return _module_folder(importlib.util.find_spec(name))


def _module_folder(spec: ModuleSpec | None) -> Path | None:
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    # A foreign module of that name: one file, no package.
    return None if spec.origin is None else Path(spec.origin).resolve()


def _folder(locations: Sequence[str]) -> Path:
    return Path(next(iter(locations))).resolve().parent
