"""The parts of ``python -m benchmarks.gpu --stage learn``: curves of walker-run.

GPLD and the same agent without penalty, at 12M, two seeds each, for as long as there is
time. The runs are `train.main`'s own. They lie in a folder that stays on the machine
(below the system's temporary one, which TMPDIR names), so that the same stage called
again goes on from the checkpoints; the curves so far are copied out at every call.
"""

import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import curves
from benchmarks.gpu.parts import Clock, Entries, Part, items

ARMS = {"gpld": "--penalty xla", "none": "--penalty none"}
FLAGS = (
    "--preset gpld --env walker-run --seeds 2 --steps 250000 --replay-size 125000 "
    "--eval-every 10000 --save-every 50000"
)
"""The paper's configuration, but 250,000 environment steps, which half an hour may
reach: the replay holds all of them, and no schedule depends on their number."""
TINY = "--preset smoke --env toy-target --seeds 2 --steps 400"

SAVE_SECONDS = 50.0
"""Before its end a part asks its run to stop: that writes a checkpoint."""


def home(name: str) -> Path:
    """Where the runs stay between two calls on one machine."""
    return Path(tempfile.gettempdir()) / f"smooth-dreamer-gpu-{name}"


def train(
    arm: str,
    clock: Clock,
    *,
    words: str = FLAGS,
    runs: str = "learn",
    save_seconds: float = SAVE_SECONDS,
) -> Entries:
    """One arm, from its checkpoint if there is one, until the time is up."""

    def run() -> dict[str, Any]:
        folder = home(runs)
        folder.mkdir(parents=True, exist_ok=True)
        run_dir = folder / arm
        before = last_step(run_dir)
        flags = [*words.split(), *ARMS[arm].split()]
        start = time.perf_counter()
        code, said = stopped_in_time(
            [sys.executable, "-m", "train.main", *flags, "--logdir", str(run_dir)],
            folder / f"{arm}.log",
            until_stop=clock() - save_seconds,
            until_kill=clock() - 5,
        )
        print(said)
        if code not in (0, 128 + signal.SIGTERM):
            last = " | ".join(said.splitlines()[-4:])
            raise RuntimeError(f"exit status {code}: {last}")
        return {
            "flags": " ".join(flags),
            "finished": code == 0,
            "from_step": before,
            "step": last_step(run_dir),
            "wall_seconds": time.perf_counter() - start,
            **speed(run_dir, before),
        }

    return items({arm: run}, clock, save_seconds)


def stopped_in_time(
    command: list[str],
    log: Path,
    *,
    until_stop: float,
    until_kill: float,
    stop_when: Callable[[], bool] | None = None,
    flags: str = "",
) -> tuple[int, str]:
    """Runs a command, asks it to stop (SIGTERM), and kills it if it does not.

    Args:
        until_stop: seconds until it is asked.
        until_kill: seconds until it is killed.
        stop_when: it is asked as soon as this holds, too.
        flags: for XLA, added to those of the environment.

    Returns:
        Its exit status, negative where a signal ended it, and what it printed.
    """
    usual = os.environ.get("XLA_FLAGS", "")
    environment = os.environ | {"XLA_FLAGS": f"{usual} {flags}".strip()}
    begun = time.perf_counter()
    with log.open("w", encoding="utf-8") as output:
        child = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            while child.poll() is None:
                spent = time.perf_counter() - begun
                if spent > until_stop or (stop_when is not None and stop_when()):
                    child.terminate()
                    break
                time.sleep(0.02)
            spent = time.perf_counter() - begun
            child.wait(timeout=max(until_kill - spent, 1.0))
        except subprocess.TimeoutExpired:
            pass
        finally:
            if child.poll() is None:  # whatever ended this function, no run is left
                child.kill()
                child.wait()
    return child.returncode, log.read_text(encoding="utf-8", errors="replace")


def last_step(run_dir: Path) -> int:
    """The environment step a run has logged last; 0 before it has."""
    rows = _timing(run_dir)
    return int(rows[-1]["step"]) if rows else 0


def speed(run_dir: Path, since: int) -> dict[str, float]:
    """Median speed of the log's lines after a step, of each agent."""
    rows = [row for row in _timing(run_dir) if row["step"] > since]
    found = {}
    for name in ("steps_per_second", "updates_per_second"):
        values = [row[f"time/{name}"] for row in rows if row.get(f"time/{name}")]
        if values:
            found[name] = statistics.median(values)
    return found


def _timing(run_dir: Path) -> list[dict[str, Any]]:
    path = run_dir / "timing.jsonl"
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def collected(clock: Clock, folder: Path, *, runs: str = "learn") -> Entries:
    """All curves so far: as entries and as a picture."""
    found: list[curves.Curve] = []

    def read(arm: str) -> dict[str, Any]:
        of_arm = []
        for run_dir in sorted((home(runs) / arm).glob("seed_*")):
            label = f"{arm}, {run_dir.name.replace('_', ' ')}"
            of_arm.append(dataclasses.replace(curves.read_curve(run_dir), label=label))
        if not of_arm:
            raise FileNotFoundError(f"no seed_* below {home(runs) / arm}")
        found.extend(of_arm)
        return {"curves": [dataclasses.asdict(curve) for curve in of_arm]}

    def drawn() -> dict[str, Any]:
        name = "gpu_learn.png"
        curves.draw(found).savefig(folder / name)
        return {"file": name, "curves": len(found)}

    work = {arm: partial(read, arm) for arm in ARMS} | {"picture": drawn}
    return items(work, clock, 0.0)


_TINY: dict[str, Any] = {
    "words": TINY,
    "runs": "rehearsal",
    "save_seconds": 5.0,
}
PARTS = {
    **{
        arm: Part(partial(train, arm), 245, partial(train, arm, **_TINY))
        for arm in ARMS
    },
    "curves": Part(collected, 30, partial(collected, runs="rehearsal"), files=True),
}
"""520 seconds in all."""
