"""Checkpoints of a run: arrays by Orbax, in directories that are complete or absent.

    RUN/checkpoints/000000012000/
        arrays/          the leaves of the tree (Orbax, uncompressed)
        metadata.json    path, type and shape of every leaf; the caller's own values
        manifest.json    sha256 of all of these

A step is written under a temporary name and renamed when it is complete, so a process
killed at any moment leaves only complete checkpoints. There is no fsync: after a power
cut the manifest detects an incomplete checkpoint, and the previous one is used.
"""

import contextlib
import ctypes
import json
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from train.checkpoint import manifest
from train.checkpoint.disk import reserve
from train.checkpoint.leaves import (
    array_leaves,
    check_same,
    empty_like,
    is_key,
    spec_of,
    storable,
    target_of,
)
from train.errors import UserError, one_line, tell
from train.processes import coordination
from train.run_dir.lock import RunLock as RunLock

_SCRATCH = ".unfinished-"
_ARRAYS = "arrays"
_METADATA = "metadata.json"
_NONE, _UNREADABLE = -1, -2  # in place of a step


class Restored(NamedTuple):
    """What `Checkpointer.restore` found."""

    step: int
    tree: PyTree
    metadata: dict[str, Any]


class Checkpointer:
    """Saves and restores the state of one run directory.

    The caller holds the directory's `RunLock` while saving; reading needs no lock. Of
    several processes all must save and restore together, in a directory they share:
    each writes and reads its own parts of the arrays, process 0 does the rest.

    Args:
        run_dir: run directory.
        keep: number of latest steps to keep, beside those saved with a true `forever`
            in their metadata.
        folder: the folder in the run directory that holds the steps.
        warn: takes a line for the user; by default it goes to stderr.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        keep: int = 3,
        *,
        folder: str = "checkpoints",
        warn: Callable[[str], None] | None = None,
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep={keep}: keep at least 1 step")
        self._directory = pathlib.Path(run_dir).absolute() / folder
        self.folder = folder
        self._noun = folder.removesuffix("s")
        self._keep = keep
        self._warn = warn or _to_stderr
        self._orbax = ocp.Checkpointer(
            # Uncompressed is three times faster here, and its size known beforehand.
            ocp.PyTreeCheckpointHandler(
                use_ocdbt=True, use_zarr3=True, use_compression=False
            )
        )

    def steps(self) -> list[int]:
        """Saved steps, ascending; damaged ones are found only on restoring."""
        if not self._directory.is_dir():
            return []
        names = (path.name for path in self._directory.iterdir())
        return sorted(int(name) for name in names if re.fullmatch("[0-9]{12}", name))

    def save(self, step: int, tree: PyTree, metadata: Mapping[str, Any]) -> bool:
        """Save a step, then remove all but the latest `keep`.

        Later steps are removed as well: they could not be read, and the run resumed
        from an earlier one. A step that exists is replaced.

        Args:
            step: environment step, the name of the checkpoint.
            tree: any pytree of arrays, typed keys included. Leaves that are functions
                are left out, and come from the template on restoring.
            metadata: values JSON can hold, such as counters.

        Returns:
            Whether the step was saved. If the disk is full: False; the partial
            checkpoint is removed, and older steps are unchanged.

        Raises:
            TypeError: a leaf is neither an array nor a function.
        """
        leaves = array_leaves(tree)
        specs = {path: spec_of(leaf) for path, leaf in leaves.items()}
        arrays = {path: storable(leaf) for path, leaf in leaves.items()}
        # Orbax cannot store empty arrays; their shape is in the metadata.
        arrays = {path: array for path, array in arrays.items() if array.size}
        record = {"step": step, "leaves": specs, "metadata": dict(metadata)}
        text = json.dumps(record, indent=1)

        final = self._directory / f"{step:012d}"
        scratch = self._directory / f"{_SCRATCH}{step}"

        def begin() -> None:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._remove_scratch()
            scratch.mkdir()
            reserve(scratch, sum(a.nbytes for a in arrays.values()) + len(text))
            (scratch / _METADATA).write_text(text)

        def end() -> None:
            manifest.write(scratch)
            if final.exists():
                os.rename(final, self._directory / f"{_SCRATCH}replaced-{step}")
            os.rename(scratch, final)
            self._prune(latest=step)

        nothing = lambda: None
        first, last = (begin, end) if coordination.leads() else (nothing, nothing)
        write = lambda: self._orbax.save(scratch / _ARRAYS, arrays)
        saved = all(self._try(step, part) for part in (first, write, last))
        give_back_memory()
        return saved

    def _try(self, step: int, part: Callable[[], None]) -> bool:
        """Whether a part of saving succeeded, in all processes."""
        fine, reason = True, "in another process"
        try:
            part()
        except (
            OSError,
            ValueError,
        ) as error:  # Orbax raises the latter for a full disk
            fine, reason = False, one_line(error)[:200] or type(error).__name__
        if coordination.agree(fine):
            return True
        if coordination.leads():
            self._remove_scratch()
        self._warn(f"warning: {self._noun} {step} was not saved ({reason})")
        return False

    def restore(self, template: PyTree, *, partial: bool = False) -> Restored | None:
        """The latest step that can be read, or None where none was ever saved.

        A damaged step is named in a warning, and the one before is tried.

        Args:
            template: a pytree like the saved one; arrays, or what `jax.eval_shape`
                gives, which spares the memory of a second state. A sharding on a
                leaf decides where it goes.
            partial: read the template's leaves only, and ignore others in the file.

        Raises:
            CheckpointMismatch: the leaves differ in structure, shape or type.
            UserError: there are steps, but none can be read.
        """
        step = coordination.from_leader(
            self._newest_intact() if coordination.leads() else 0
        )
        if step == _NONE:
            return None
        if step == _UNREADABLE:
            raise UserError(
                f"{self._directory}: none of the checkpoints {self.steps()} can be "
                "read; restore the files, or train anew with another --logdir"
            )
        return self._load(self._directory / f"{step:012d}", template, partial=partial)

    def restore_step(
        self, step: int, template: PyTree, *, partial: bool = False
    ) -> Restored | None:
        """A saved step; None, and a warning, where it is damaged. See `restore`."""
        if not self._intact(step):
            return None
        return self._load(self._directory / f"{step:012d}", template, partial=partial)

    def copy(self, step: int, other: "Checkpointer") -> None:
        """Copy a step of another run, which must not be saving at that time.

        Raises:
            Damaged: the step cannot be read; nothing is copied.
            OSError: it cannot be written here.
        """
        source = other._directory / f"{step:012d}"
        manifest.verify(source)
        scratch = self._directory / f"{_SCRATCH}{step}"
        self._directory.mkdir(parents=True, exist_ok=True)
        self._remove_scratch()
        shutil.copytree(source, scratch)
        manifest.verify(scratch)
        os.rename(scratch, self._directory / f"{step:012d}")

    def _intact(self, step: int, earlier: str = "") -> bool:
        """Whether a step is undamaged; warns where it is not."""
        try:
            manifest.verify(self._directory / f"{step:012d}")
        except manifest.Damaged as damage:
            self._warn(f"warning: {self._noun} {step} is unusable: {damage}{earlier}")
            return False
        return True

    def _newest_intact(self) -> int:
        """The latest undamaged step, `_NONE` or `_UNREADABLE`; warns of the damaged."""
        steps = self.steps()
        for position in range(len(steps) - 1, -1, -1):
            earlier = f"; trying {steps[position - 1]}" if position else ""
            if self._intact(steps[position], earlier):
                return steps[position]
        return _UNREADABLE if steps else _NONE

    def _load(
        self, directory: pathlib.Path, template: PyTree, *, partial: bool
    ) -> Restored:
        record = _read_metadata(directory / _METADATA)
        wanted = array_leaves(template)
        specs = {path: spec_of(leaf) for path, leaf in wanted.items()}
        check_same(directory, record["leaves"], specs, partial=partial)
        targets = {path: target_of(leaf) for path, leaf in wanted.items() if leaf.size}
        arrays: dict[str, Any] = {}
        if targets:
            arrays = self._orbax.restore(
                directory / _ARRAYS,
                args=ocp.args.PyTreeRestore(
                    item=targets,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(targets),
                    partial_restore=partial,
                ),
            )

        def fill(path: jax.tree_util.KeyPath, leaf: Any) -> Any:
            if callable(leaf):
                return leaf
            name = jax.tree_util.keystr(path)
            if name not in arrays:
                return empty_like(leaf)
            if is_key(leaf):
                impl = record["leaves"][name]["key"]
                return jax.random.wrap_key_data(arrays[name], impl=impl)
            return arrays[name]

        tree = jax.tree_util.tree_map_with_path(fill, template)
        return Restored(record["step"], tree, record["metadata"])

    def _prune(self, *, latest: int) -> None:
        steps = self.steps()
        passing = [s for s in steps if s <= latest and not self._forever(s)]
        old = [s for s in passing[: -self._keep] if s != latest]
        for step in old + [step for step in steps if step > latest]:
            shutil.rmtree(self._directory / f"{step:012d}", ignore_errors=True)
        self._remove_scratch()

    def _forever(self, step: int) -> bool:
        """Whether a step was saved to be kept; one that cannot be read is not."""
        path = self._directory / f"{step:012d}" / _METADATA
        with contextlib.suppress(UserError):
            return bool(_read_metadata(path)["metadata"].get("forever"))
        return False

    def _remove_scratch(self) -> None:
        """Remove temporary directories, also of a killed process; the lock is held."""
        for path in self._directory.glob(_SCRATCH + "*"):
            shutil.rmtree(path, ignore_errors=True)


def give_back_memory() -> None:
    """Return freed memory to the system (glibc only).

    glibc would keep some of it in fragments that the next save cannot use, and the
    memory of the process would grow with every save.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _to_stderr(line: str) -> None:
    tell(line, sys.stderr)


def _read_metadata(path: pathlib.Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
        specs = record["leaves"].values()
        if all({"dtype", "shape"} <= spec.keys() for spec in specs):
            return {key: record[key] for key in ("step", "leaves", "metadata")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise UserError(
        f"{path}: not the metadata of a checkpoint, though the manifest beside it says "
        "it is whole; remove that step, or train anew with another --logdir"
    )
