"""Training: configuration, replay, compiled programs, loop, logs, checkpoints."""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from train.config import Config as Config
    from train.main import Result as Result
    from train.main import run as run

# Before any module is read that another version would call a syntax error, or that
# lacks a dependency there.
if sys.version_info[:2] != (3, 12):
    _found = ".".join(map(str, sys.version_info[:2]))
    _line = f"smooth-dreamer needs Python 3.12, and this is {_found}: try `uv run`"
    if sys.argv[:1] == ["-m"]:  # python -m train.main is looking for its module
        print(f"error: {_line}", file=sys.stderr)
        sys.exit(2)
    raise ImportError(_line)

_LAZY = {"run": "train.main", "Result": "train.main", "Config": "train.config"}


def __getattr__(name: str) -> Any:
    """`train.run` and its types, loaded when they are asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module 'train' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
