"""A log file with one JSON object a line, made to survive kills and full disks."""

import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping


class JsonLines:
    """Appends objects to a file; after a resume, only the lines up to that point.

    A line is written whole or not at all. When the disk is full, lines wait in memory
    and are written with a later one.

    Args:
        path: file; its directory is made where it does not exist.
        restored_step: lines with a later `"step"` are removed, so that the file
            goes on as if the run had never stopped; None starts an empty file.
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
        """Write what still waits, and close the file."""
        if self._waiting:
            self._flush()
        os.close(self._file)

    def _flush(self) -> None:
        size = os.fstat(self._file).st_size
        text = b"".join(self._waiting)
        try:
            if os.write(self._file, text) < len(text):
                raise OSError("only a part could be written")
        except OSError as error:
            os.ftruncate(self._file, size)
            if len(self._waiting) == 1:  # not again for every line that joins
                self._warn(
                    f"warning: {self._path} cannot be written ({error}); its lines "
                    "wait in memory"
                )
            return
        self._waiting.clear()

    def _cut(self, restored_step: int | None) -> dict[str, float | None] | None:
        lines = (
            self._path.read_bytes().splitlines(keepends=True)
            if (restored_step is not None and self._path.exists())
            else []
        )
        kept = [line for line in lines if _step(line) <= (restored_step or 0)]
        scratch = self._path.with_name(self._path.name + ".tmp")
        scratch.write_bytes(b"".join(kept))
        os.replace(scratch, self._path)
        return json.loads(kept[-1]) if kept else None


def read(path: pathlib.Path) -> list[dict[str, float | None]]:
    """All objects of such a file, in order."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def _step(line: bytes) -> float:
    """The step of a line; infinity for one that a kill cut short."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
