"""Forks: runs that go on from another run's checkpoint with other flags.

A fork has its parent's parameters, optimizer, replay buffer, environments and random
numbers, so two forks of one checkpoint differ by their flags alone. A fork without
another flag is, on a CPU, bitwise the run it was forked from.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from train.checkpoint.checkpointer import Checkpointer
from train.checkpoint.manifest import Damaged
from train.config import Config
from train.config.fields import invalid
from train.errors import UserError, logdir_errors
from train.run_dir import record
from train.run_dir.provenance import provenance

RECORD = "fork.json"
_LOGS = ("metrics.jsonl", "timing.jsonl")


def prepare_fork(config: Config, run_dir: Path) -> list[str]:
    """Copy the checkpoint and the log up to it into a new run directory.

    The caller holds the lock of `run_dir`. Does nothing where the fork has begun: its
    own checkpoints count then. The log goes on from the parent's; `fork.json` records
    the parent, the step and the flags that differ.

    Returns:
        Lines for the user.

    Raises:
        UserError: the parent has no such checkpoint, or it cannot be read or copied.
    """
    own = Checkpointer(run_dir)
    if not config.origin.fork or own.steps():
        return []
    parent_dir = Path(config.origin.fork).expanduser()
    parent = record.read_run(parent_dir, "--fork")
    store = Checkpointer(parent_dir)
    step = _choose_step(config, store.steps())
    changes = [line for line in _changes(parent, config) if not _expected(line)]
    with logdir_errors(run_dir):
        _copy_logs(parent_dir, run_dir)
        # First: a directory with checkpoints and without a configuration is refused.
        record.write(config, run_dir / "config.json")
        text = json.dumps(_record(parent_dir, step, changes), indent=2)
        (run_dir / RECORD).write_text(text + "\n")
        try:
            own.copy(step, store)
        except Damaged as damage:
            raise UserError(f"--fork {config.origin.fork}: {damage}") from None
    said = "; ".join(changes) or "no flag differs"
    return [f"fork         of {parent_dir} at environment step {step:,}: {said}"]


def _choose_step(config: Config, steps: list[int]) -> int:
    """The step of `--at`, or the newest.

    Raises:
        UserError: it is not among `steps`, or there are none.
    """
    where, at = config.origin.fork, config.origin.at
    if not steps:
        raise invalid("--fork", where, "holds no checkpoint", "a run that saved one")
    if at is None:
        return steps[-1]
    if at not in steps:
        near = min(steps, key=lambda step: abs(step - at))
        allowed = ", ".join(map(str, steps))
        raise invalid("--at", at, f"{where} has no such checkpoint", allowed, str(near))
    return at


def _changes(parent: Config, config: Config) -> list[str]:
    difference = record.diff(parent, config)
    return [*difference.allowed, *difference.refused]


def _expected(line: str) -> bool:
    """Whether a difference says only that this is a fork."""
    return line.partition(":")[0] in ("--fork", "--at", "--logdir", "--preset")


def _record(parent_dir: Path, step: int, changes: list[str]) -> dict[str, Any]:
    return {
        "parent": str(parent_dir),
        "step": step,
        "changes": changes,
        "provenance": provenance(),
    }


def _copy_logs(parent: Path, run_dir: Path) -> None:
    """Copy the logs; lines later than the checkpoint are removed on resuming."""
    folders = [parent, *sorted(parent.glob("seed_*"))]
    for folder in folders:
        target = run_dir / folder.relative_to(parent)
        target.mkdir(parents=True, exist_ok=True)
        for name in _LOGS:
            if (folder / name).exists():
                scratch = target / (name + ".tmp")
                shutil.copyfile(folder / name, scratch)
                os.replace(scratch, target / name)
