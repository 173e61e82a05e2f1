"""The form of MJX's constraint solver that takes few kernels, for a GPU.

A GPU takes as long to begin a small kernel as a CPU takes to do its work. So on a GPU,

* the matrices are factored by `envs.mjx.linear_algebra`, not by calls of a library;
* the loop of the line search is unrolled: a turn of it needed more copies of what the
  loop carries than kernels.

For that, some of MJX's modules get a `jax` of their own, that differs in these
functions. Importing this module does it for the whole process; `jax` itself is left as
it is. On a CPU the functions are those of `jax`.
"""

import inspect
import warnings
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax
from mujoco.mjx._src import forward, smooth, solver

from envs.mjx import linear_algebra

UNROLL = 10
"""Turns of the line search in one piece: all, in this project's tasks."""

CALLED: Mapping[Any, frozenset[str]] = {
    solver._update_gradient: frozenset({"cho_factor", "cho_solve"}),
    solver._while_loop_scan: frozenset({"scan"}),
    smooth.factor_m: frozenset({"cho_factor"}),
    smooth.solve_m: frozenset({"cho_solve"}),
    forward.implicit: frozenset({"cho_factor", "cho_solve"}),
}
"""Functions of MJX, and what each calls of what is replaced."""


class Instead:
    """A module with other functions in the place of some of its own."""

    def __init__(self, module: ModuleType, **others: Any):
        self._module = module
        self.__dict__.update(others)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _scan(*args: Any, **options: Any) -> Any:
    """`jax.lax.scan`; on a GPU, `UNROLL` turns in one piece."""
    if jax.default_backend() == "gpu":
        options.setdefault("unroll", UNROLL)
    return jax.lax.scan(*args, **options)


def check(called: Mapping[Any, frozenset[str]]) -> None:
    """Warns of functions that do not call what `called` says, as `jax...NAME`."""
    for function, names in called.items():
        missing = names - set(inspect.unwrap(function).__code__.co_names)
        if "jax" not in inspect.unwrap(function).__globals__:
            missing = names
        if missing:
            warnings.warn(
                f"MJX's {function.__module__}.{function.__name__} does not call "
                f"{', '.join(sorted(missing))}: on a GPU, physics takes more kernels "
                "than it needs to. Install the version of mujoco-mjx in "
                "constraints.txt",
                stacklevel=2,
            )


def _replace() -> None:
    linalg = Instead(
        jax.scipy.linalg,
        cho_factor=linear_algebra.cho_factor,
        cho_solve=linear_algebra.cho_solve,
    )
    scipy = Instead(jax.scipy, linalg=linalg)
    modules: list[Any] = [smooth, forward]
    for module in modules:
        module.jax = Instead(jax, scipy=scipy)
    # The one `scan` of this module is the line search's.
    solver.jax = Instead(jax, scipy=scipy, lax=Instead(jax.lax, scan=_scan))
    check(CALLED)


_replace()
