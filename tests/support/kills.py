"""Runs of `python -m train.main` that are killed, started again, and compared."""

import collections
import contextlib
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
from toy_run import assert_same_bits

from envs import VectorEnv
from train import loop
from train.checkpoint.checkpointer import Checkpointer
from train.preflight.setup import make_env
from train.program.penalty import choose_penalty
from train.run_dir import record

ROOT = pathlib.Path(__file__).parents[2]
PATIENCE = 300.0  # seconds until a child counts as stuck

Moment = Literal["start", "chunk", "save"]
"""When to kill: while a process starts, after it has trained, while it saves."""


def start(words: str, run_dir: pathlib.Path) -> subprocess.Popen[bytes]:
    """The trainer in a process group of its own, its output in RUN.log."""
    command = [sys.executable, "-m", "train.main", *words.split()]
    with run_dir.with_name(run_dir.name + ".log").open("ab") as log:
        return subprocess.Popen(
            [*command, "--logdir", str(run_dir)],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def finish(process: subprocess.Popen[bytes], run_dir: pathlib.Path) -> str:
    """Wait for a run that should end well; what it and those before it printed."""
    code = process.wait(timeout=PATIENCE)
    said = run_dir.with_name(run_dir.name + ".log").read_text()
    assert code == 0, said
    assert "Traceback" not in said
    return said


def wait_for(process: subprocess.Popen[Any], seen: Callable[[], bool]) -> bool:
    """Whether something was seen before the process ended."""
    deadline = time.monotonic() + PATIENCE
    while not seen():
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline, "the child is stuck"
        time.sleep(0.001)
    return True


def unfinished(run_dir: pathlib.Path, since: int) -> set[str]:
    """What has been begun by a save, and not ended, since a time in nanoseconds."""
    found = set()
    for path in (run_dir / "checkpoints").glob(".unfinished-*"):
        with contextlib.suppress(FileNotFoundError):  # ended meanwhile
            if path.stat().st_ctime_ns > since:
                found.add(path.name)
    return found


def kill_at(
    moments: Sequence[Moment],
    words: str,
    run_dir: pathlib.Path,
    *,
    rng: random.Random,
    longest: float,
    saves: tuple[int, int] = (1, 3),
) -> collections.Counter[str]:
    """Start the same command again and again, killing it (SIGKILL) each time.

    Args:
        longest: the random delay after the moment was reached, in seconds, is uniform
            up to this; within a save up to a tenth of it.
        saves: which save to hit, counted from the start of its process: between these.

    Returns:
        How many processes died `inside` a save and `outside` one, and how many were
        `done` before they could be killed.
    """
    tally: collections.Counter[str] = collections.Counter()
    log = run_dir.with_name(run_dir.name + ".log")
    for moment in moments:
        before = log.stat().st_size if log.exists() else 0
        since = time.time_ns()  # what is older, a killed process left
        process = start(words, run_dir)
        if moment == "start":
            time.sleep(rng.uniform(0, 4 * longest))
        elif moment == "chunk":
            wait_for(process, lambda: b"updates done" in log.read_bytes()[before:])  # noqa: B023
            time.sleep(rng.uniform(0, longest))
        else:
            seen, count = set[str](), rng.randint(*saves)

            def saving() -> bool:
                seen.update(unfinished(run_dir, since))  # noqa: B023
                return len(seen) >= count  # noqa: B023

            wait_for(process, saving)
            time.sleep(rng.uniform(0, longest / 10))
        process.send_signal(signal.SIGKILL)
        code = process.wait()
        inside = unfinished(run_dir, since)
        tally["done" if code == 0 else "inside" if inside else "outside"] += 1
        assert code in (0, -signal.SIGKILL), log.read_text()
    return tally


def assert_same_run(a: pathlib.Path, b: pathlib.Path) -> None:
    """Bitwise: the record, and every array of the last checkpoint."""
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
    config = record.read(a / "config.json")
    env = VectorEnv(make_env(config), config.num_envs)
    programs = loop.Programs(config, env, choose_penalty(config, "cpu"))
    template = programs.template
    first, second = (Checkpointer(path).restore(template) for path in (a, b))
    assert first is not None and second is not None
    assert (first.step, first.metadata) == (second.step, second.metadata)
    assert len(jax.tree.leaves(first.tree)) > 50
    assert_same_bits(first.tree, second.tree)
