"""What the stages of `benchmarks.gpu` are made of.

Each part is a generator of ``(name, entry)``: what is done is kept even if the rest of
the part fails, hangs or runs out of time. `clock` says how many seconds are left.
"""

import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from train.checkpoint.leaves import storable
from train.errors import UserError

Entries = Iterator[tuple[str, dict[str, Any]]]
Clock = Callable[[], float]


STAGES = ("kernel", "overhead", "env", "throughput", "learn", "determinism")
"""Each is the module of this name here, with its `PARTS`. Only the one that is asked
for is imported: a borrowed machine may lack what another needs, such as MuJoCo."""

KERNEL_OFF = "SMOOTH_DREAMER_KERNEL_OFF"
"""Environment variable that says why the fused kernel is not to be run."""
COMPILED = "SMOOTH_DREAMER_COMPILED"
"""Environment variable that names the folder of programs compiled ahead."""


class Part(NamedTuple):
    """What one process does.

    Attributes:
        run: given the seconds that are left to it and, with `files`, the folder where
            it may leave files of its own.
        seconds: what it may take, starting JAX included.
        rehearse: the same at tiny sizes on any device, for `--quick`.
        files: whether `run` and `rehearse` take that folder.
    """

    run: Callable[..., Entries]
    seconds: int
    rehearse: Callable[..., Entries] | None = None
    files: bool = False


def check_compiled(stage: str, folder: Path | None) -> None:
    """Raises `UserError` where `--compiled` has no effect, or names no folder."""
    if folder is None:
        return
    if stage != "all":
        raise UserError(f"--compiled {folder}: allowed with --stage all")
    if not folder.is_dir():
        raise UserError(f"--compiled {folder}: there is no such folder")


def attempt(fn: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `fn` returns, or the error it raised and the end of its trace."""
    try:
        return fn()
    except Exception as error:  # whatever one item does, the others are still wanted
        # Where the project lies on that machine belongs in no result.
        here = f"{Path(__file__).parents[2]}{os.sep}"
        trace = traceback.format_exc().replace(here, "").splitlines()
        text = str(error).replace(here, "")[:2000]
        return {"error": f"{type(error).__name__}: {text}", "trace": trace[-6:]}


def items(
    work: dict[str, Callable[[], dict[str, Any]]], clock: Clock, seconds: float
) -> Entries:
    """Runs what there is time for; what there is not is named."""
    for name, fn in work.items():
        if clock() < seconds:
            yield name, {"error": f"not begun: {clock():.0f} s were left"}
        else:
            yield name, attempt(fn)


def differing(one: Any, other: Any) -> list[str]:
    """The paths of the leaves of two pytrees that have not the same bits."""
    pairs = zip(
        jax.tree_util.tree_flatten_with_path(one)[0],
        jax.tree_util.tree_flatten_with_path(other)[0],
        strict=True,
    )
    return [
        jax.tree_util.keystr(path)
        for (path, x), (_, y) in pairs
        if _bits(x) != _bits(y)
    ]


def _bits(leaf: Any) -> tuple[Any, ...]:
    leaf = np.asarray(storable(leaf))
    return leaf.dtype, leaf.shape, leaf.tobytes()
