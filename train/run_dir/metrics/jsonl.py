"""A log file with one JSON object a line, robust to kills and full disks."""

import contextlib
import itertools
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping

from train.errors import counted


class JsonLines:
    """Appends objects to a file; after a resume, only the lines up to that point.

    A line is written completely or not at all. When the disk is full, lines wait in
    memory and are written with a later one.

    Args:
        path: file; its directory is made where it does not exist.
        restored_step: lines with a later `"step"` are removed, so that the file
            goes on as if the run had never stopped; None starts an empty file, and
            keeps one that was there under another name.
        warn: takes a line for the user.
    """

    def __init__(
        self,
        path: pathlib.Path,
        *,
        restored_step: int | None,
        warn: Callable[[str], None],
    ) -> None:
        self._path, self._warn = path, warn
        self._waiting: list[bytes] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        self.last = self._cut(restored_step)
        """The object of the last line that was kept, or None."""
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, record: Mapping[str, object]) -> None:
        """Append one object. JSON has no NaN and no infinity: they become null."""
        finite = {key: _finite(value) for key, value in record.items()}
        self._waiting.append(json.dumps(finite, allow_nan=False).encode() + b"\n")
        self._flush()

    def close(self) -> None:
        """Write what still waits, and close the file; what cannot be is said."""
        if self._waiting:
            self._flush()
        if self._waiting:
            lost = counted(len(self._waiting), "line")
            self._warn(f"warning: {lost} of {self._path} could not be written")
        try:
            os.close(self._file)
        except OSError as error:  # a network file system may only now say so
            self._warn(f"warning: {self._path} may be incomplete ({error})")

    def _flush(self) -> None:
        text = b"".join(self._waiting)
        size = None
        try:
            size = os.fstat(self._file).st_size
            if os.write(self._file, text) < len(text):
                raise OSError("only a part could be written")
        except OSError as error:
            with contextlib.suppress(OSError):
                if size is not None:
                    os.ftruncate(self._file, size)
            if len(self._waiting) == 1:  # not again for every line that joins
                self._warn(
                    f"warning: {self._path} cannot be written ({error}); its lines "
                    "wait in memory"
                )
            return
        self._waiting.clear()

    def _cut(self, restored_step: int | None) -> dict[str, float | None] | None:
        """Leave the lines up to this step; the last of them."""
        content = self._path.read_bytes() if self._path.exists() else b""
        if restored_step is None:
            if content:
                self._set_aside()
            return None
        lines = content.splitlines(keepends=True)
        steps = [_step(line) for line in lines]
        # The last line may have been cut short by a kill; of another this is news.
        damaged = sum(step is None for step in steps[:-1])
        if damaged:
            self._warn(
                f"warning: left out {counted(damaged, 'line')} of {self._path} that "
                "cannot be read"
            )
        kept = [
            line
            for line, step in zip(lines, steps, strict=True)
            if step is not None and step <= restored_step
        ]
        scratch = self._path.with_name(self._path.name + ".tmp")
        scratch.write_bytes(b"".join(kept))
        os.replace(scratch, self._path)
        return json.loads(kept[-1]) if kept else None

    def _set_aside(self) -> None:
        """Rename a file of an earlier run that saved nothing to go on from."""
        names = (f"{self._path.name}.{number}" for number in itertools.count(1))
        other = next(p for p in map(self._path.with_name, names) if not p.exists())
        os.rename(self._path, other)
        self._warn(f"{self._path} was there, without a checkpoint: now {other.name}")


def read(path: pathlib.Path) -> list[dict[str, float | None]]:
    """All objects of such a file, in order."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def _step(line: bytes) -> float | None:
    """The step of a line; None where it cannot be read."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return step if isinstance(step, int | float) and line.endswith(b"\n") else None


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
