"""The one place that imports `mujoco` and `mujoco.mjx`.

MJX prints "Failed to import warp" to stdout when its optional Warp back end is not
installed. This project never uses that back end, so the line is dropped; anything
else printed during the import is passed on.
"""

import contextlib
import importlib
import io
from typing import TYPE_CHECKING, Any

_printed = io.StringIO()
with contextlib.redirect_stdout(_printed):
    from mujoco import mjx

for _line in _printed.getvalue().splitlines():
    if "Failed to import" not in _line:
        print(_line)

# The compiled part of mujoco has no type stubs: to the type checker the module is Any.
mujoco: Any = importlib.import_module("mujoco")
if TYPE_CHECKING:
    type MjModel = Any
    type MjSpec = Any
else:
    MjModel = mujoco.MjModel
    MjSpec = mujoco.MjSpec

__all__ = ["MjModel", "MjSpec", "mjx", "mujoco"]
