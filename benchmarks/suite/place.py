"""Where a run of a suite is on the disk, and how far it got.

    DIR/TASK/ARM/seed-N/            the run directory of `train.main`
    DIR/TASK/ARM/seed-N.log         what its programs printed
    DIR/TASK/ARM/seed-N.claim       locked while some process of a suite makes the run
    DIR/TASK/ARM/seed-N.json        the episodes of the final agent (`train.evaluate`)
    DIR/TASK/ARM/seed-N.sensitivity.json   how smooth it is (`benchmarks.sensitivity`)
    DIR/TASK/ARM/seed-N.failures    one JSON line for each time it ended with an error

Nothing else is remembered: whether a run is done is read from what it left.
"""

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from benchmarks.suite.declare import Cell, Suite
from train.checkpoint.checkpointer import Checkpointer
from train.config import Config
from train.errors import UserError
from train.run_dir import record
from train.run_dir.lock import is_locked, lock_now

TRIES = 2
"""A run that ended so often with an error is left alone."""
_TAIL = 1 << 16  # bytes of a log, more than its longest line

Kind = Literal["done", "running", "stopped", "missing", "failed", "other"]


class State(NamedTuple):
    """How far a run is.

    `other` is a run directory that holds a run with other settings.
    """

    kind: Kind
    step: int
    """Environment steps so far."""
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Place:
    """The files of one run."""

    run_dir: Path

    @classmethod
    def of(cls, folder: Path, cell: Cell) -> "Place":
        """Of a cell below the suite's folder."""
        return cls(folder / cell.task / cell.arm / f"seed-{cell.seed}")

    def beside(self, ending: str) -> Path:
        """The file `seed-N` with this ending."""
        return self.run_dir.with_name(f"{self.run_dir.name}.{ending}")

    def step(self) -> int:
        """The last step in the log; 0 before there is one."""
        return int(_last_line(self.run_dir / "metrics.jsonl").get("step", 0))

    def seconds(self) -> float:
        """Wall-clock time of the run so far."""
        return float(_last_line(self.run_dir / "timing.jsonl").get("time/seconds", 0))

    def trained(self, config: Config) -> bool:
        """Whether the last evaluation is logged and the last checkpoint saved."""
        last = _last_line(self.run_dir / "metrics.jsonl")
        checkpoints = self.run_dir / "checkpoints"
        return (
            last.get("step", 0) >= config.steps
            and last.get("eval/return_mean") is not None
            and (checkpoints / f"{int(last['step']):012d}").is_dir()
        )

    def evaluated(self, episodes: int) -> dict[str, Any] | None:
        """The final agent's episodes; None if it did not play (so many of) them."""
        try:
            found = json.loads(self.beside("json").read_text(encoding="utf-8"))
            (agent,) = found["agents"]
            fits = found["step"] == self.step() and len(agent["returns"]) == episodes
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return agent if fits else None

    def sensitivity(self) -> dict[str, Any] | None:
        """What was measured of the final agent; None before it was.

        `kl`, in nats by the perturbation's norm, is a mean over the magnitudes.
        """
        try:
            text = self.beside("sensitivity.json").read_text(encoding="utf-8")
            row = json.loads(text)["rows"][-1]
            kl = {part: sum(x) / len(x) for part, x in row["kl"].items()}
            found = {"kl": kl, "jacobian": row["jacobian"]}
            fits = row["step"] == self.step()
        except (OSError, ValueError, KeyError, IndexError, TypeError):
            return None
        return found if fits else None

    def finished(self, suite: Suite, cell: Cell) -> bool:
        """Whether nothing is left to do."""
        episodes = suite.final_episodes
        played = episodes == 0 or self.evaluated(episodes) is not None
        measured = not suite.sensitivity or self.sensitivity() is not None
        return self.trained(suite.config(cell)) and played and measured

    def other_settings(self, suite: Suite, cell: Cell) -> list[str]:
        """In what the run on the disk is another one, as `--flag: old -> new`."""
        path = self.run_dir / "config.json"
        if not path.is_file():
            return []
        try:
            ours = record.read(path)
        except UserError as error:
            return [str(error)]
        source = suite.source(cell)
        if source and ours.origin.fork:  # from where on is a matter of the folder
            ours = dataclasses.replace(ours, origin=suite.config(cell).origin)
        elif source:
            return [f"--fork:  -> {source}"]
        return record.diff(ours, suite.config(cell)).refused

    def fork_step(self, at: int) -> int | None:
        """The first checkpoint at or after a step; None before there is one."""
        steps = Checkpointer(self.run_dir).steps()
        return next((step for step in steps if step >= at), None)

    def forked_at(self) -> int | None:
        """The step from which this fork went on; None before it has begun."""
        with contextlib.suppress(UserError):
            return record.read(self.run_dir / "config.json").origin.at
        return None

    def failures(self, words: Sequence[str]) -> list[dict[str, Any]]:
        """Earlier ends with an error, of a run with these flags."""
        try:
            lines = self.beside("failures").read_text(encoding="utf-8").splitlines()
        except OSError:
            return []
        found = [json.loads(line) for line in lines]
        return [each for each in found if each["flags"] == list(words)]

    def note_failure(self, words: Sequence[str], code: int) -> dict[str, Any]:
        """Remember an end with an error."""
        failure = {
            "time": time.time(),
            "code": code,
            "says": self.last_words(),
            "flags": list(words),
        }
        with self.beside("failures").open("a", encoding="utf-8") as file:
            file.write(json.dumps(failure) + "\n")
        return failure

    def last_words(self) -> str:
        """The last line that the run's programs printed."""
        try:
            text = self.beside("log").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""

    def in_use(self) -> bool:
        """Whether a suite, or somebody else, trains there now."""
        return is_locked(self.beside("claim")) or is_locked(self.run_dir / "lock")

    def state(self, suite: Suite, cell: Cell) -> State:
        """How far the run is."""
        step = self.step()
        if self.in_use():
            return State("running", step)
        other = self.other_settings(suite, cell)
        if other:
            return State("other", step, "; ".join(other))
        if self.finished(suite, cell):
            return State("done", step)
        failures = self.failures(suite.words(cell))
        if failures:
            last = failures[-1]
            return State("failed", step, f"exit status {last['code']}: {last['says']}")
        source = suite.source(cell)
        waits = f"a fork of {source}" if source and not step else ""
        return State("stopped" if step else "missing", step, waits)


class Claim:
    """Exclusive use of a file's name among the processes of all suites.

    It can be handed to a child process, and holds until both have ended: a run whose
    suite was killed is claimed as long as it goes on. The operating system drops it
    with the last process, however that ends.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def take(cls, path: Path) -> "Claim | None":
        """Claim a file, which is made; None where somebody else has it.

        Raises:
            UserError: it cannot be made, or its file system has no locks.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                lock_now(descriptor)
            except OSError:
                os.close(descriptor)
                raise
        except BlockingIOError:
            return None
        except OSError as error:
            raise UserError(
                f"--folder: {path} cannot be made and locked ({error.strerror}); "
                "allowed: a folder you may write in, on a file system with locks"
            ) from None
        return cls(descriptor)

    def drop(self) -> None:
        """Give it back, unless a child still has it."""
        os.close(self.descriptor)


def _last_line(path: Path) -> dict[str, Any]:
    """The last whole line of a log; empty where there is none."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - _TAIL, 0))
        for line in reversed(file.read().splitlines(keepends=True)):
            if line.endswith(b"\n"):
                with contextlib.suppress(ValueError):
                    return json.loads(line)
    return {}
