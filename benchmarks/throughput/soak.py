"""Soak test: do memory, speed and checkpoint count of a long run stay constant?

    python -m benchmarks.throughput.soak [--minutes 120] [--preset laptop] [--env NAME]
        [--logdir DIR] [--json OUT] [--png OUT] [--quick] [-- FLAGS OF train.main]

Starts the trainer as a subprocess, samples its resident memory, stops it by SIGTERM and
checks the time after the warm-up: resident memory may grow by at most 1 MB per 10
minutes, the speed may change by at most 10 %, and old checkpoints must be deleted. The
speed is environment steps per second of CPU time, which is insensitive to other load
and to pauses. The run is deleted unless `--logdir` is given. The replay buffer is small
(--replay-size 20000), so that it is full after the warm-up: its pages become resident
only when written. Minutes count from the first logged step. Linux only (reads /proc).

`--quick` runs a toy task with the smoke preset for two minutes, as a smoke test.
"""

import argparse
import contextlib
import functools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from benchmarks.cli import Parser, amount, command, publish
from train.errors import UserError
from train.run_dir.metrics import jsonl

WARM_UP = 0.25
"""Share of the time that is excluded: the replay fills, the allocator settles."""
MEMORY_LIMIT = 1.0
"""Megabytes per 10 minutes."""
SPEED_LIMIT = 0.1
"""Relative change of the speed over the measured time."""
CHECKPOINTS_LIMIT = 4
"""Three are kept; a new one is written before the oldest is deleted."""
_WINDOWS = 12  # windows of the measured time, each with one speed
_EVERY = 5.0  # seconds between two samples


class Sample(NamedTuple):
    """One sample of the subprocess."""

    minute: float
    resident_mb: float
    checkpoints: int
    cpu_seconds: float


class Verdict(NamedTuple):
    """One limit, and whether it was kept."""

    what: str
    value: float
    limit: float
    kept: bool

    def __str__(self) -> str:
        word = "PASS" if self.kept else "FAIL"
        return f"{word} {self.what}: {self.value:.3g} (limit {self.limit:g})"


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The least-squares slope; 0 for fewer than two distinct `x`."""
    if len(set(x)) < 2:
        return 0.0
    return float(np.polyfit(x, y, 1)[0])


def speeds(
    samples: Sequence[Sample],
    ticks: Sequence[tuple[float, int]],
    begin: float,
    end: float,
) -> list[tuple[float, float]]:
    """(middle in minutes, steps per CPU second) of equal windows of a time span.

    Args:
        samples: ascending in time; they give the CPU time.
        ticks: (minute, environment step), ascending.
        begin: first minute.
        end: last minute.
    """
    inside = [tick for tick in ticks if begin <= tick[0] <= end]
    if len(inside) < 2:
        return []
    minutes, steps = np.array(inside, float).T
    edges = np.linspace(minutes[0], minutes[-1], min(_WINDOWS, len(inside) - 1) + 1)
    at = np.interp(edges, minutes, steps)
    seen = [(sample.minute, sample.cpu_seconds) for sample in samples]
    spent = np.interp(edges, *np.array(seen, float).T)
    rates = np.diff(at) / np.diff(spent)
    middles = (edges[1:] + edges[:-1]) / 2
    return [(float(m), float(r)) for m, r in zip(middles, rates, strict=True)]


def judge(
    samples: Sequence[Sample], ticks: Sequence[tuple[float, int]], *, warm: float
) -> list[Verdict]:
    """Check the three limits on the samples after minute `warm`.

    Raises:
        ValueError: there is no sample or no speed after the warm-up.
    """
    judged = [sample for sample in samples if sample.minute >= warm]
    parts = speeds(samples, ticks, warm, samples[-1].minute if samples else warm)
    if not judged or not parts:
        raise ValueError(f"warm={warm}: nothing was seen later; run for longer")
    minutes = [sample.minute for sample in judged]
    growth = 10 * slope(minutes, [sample.resident_mb for sample in judged])
    middles, rates = zip(*parts, strict=True)
    change = slope(middles, rates) * (minutes[-1] - minutes[0]) / float(np.mean(rates))
    most = max(sample.checkpoints for sample in samples)
    found = [
        ("memory growth, MB in 10 minutes", growth, MEMORY_LIMIT, growth),
        ("change of speed, share", change, SPEED_LIMIT, abs(change)),
        ("most checkpoints at once", most, CHECKPOINTS_LIMIT, most),
    ]
    return [
        Verdict(what, value, limit, kept=size <= limit)
        for what, value, limit, size in found
    ]


def resources(pid: int) -> tuple[float, float] | None:
    """Anonymous resident memory in MB and CPU seconds; None if the process has ended.

    File-backed pages are excluded, because the kernel can reclaim them at any time.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        # The second field is the name in parentheses, which may contain spaces.
        rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("RssAnon:")]
    if not found:
        return None
    ticks = int(rest[11]) + int(rest[12])  # utime and stime, of all its threads
    return int(found[0]) * 1024 / 1e6, ticks / os.sysconf("SC_CLK_TCK")


def watch(
    words: Sequence[str], run_dir: Path, minutes: float
) -> tuple[list[Sample], list[tuple[float, int]], float]:
    """Run the trainer for `minutes` after its first logged step, then send SIGTERM.

    Returns:
        Samples, the trainer's own (minute, step) pairs, and the minute of the first
        step, all counted from the start of the process.

    Raises:
        RuntimeError: it ended early or with an unexpected exit code, or the folder
            already has a run.
    """
    command = [sys.executable, "-m", "train.main", *words, "--logdir", str(run_dir)]
    said = run_dir.with_name(f"{run_dir.name}-said.log")
    if (run_dir / "metrics.jsonl").exists():
        raise RuntimeError(f"{run_dir}: holds a run already; name a new folder")
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    samples: list[Sample] = []
    # Starts with the first chunk; metrics.jsonl starts earlier, with an evaluation.
    record = run_dir / "timing.jsonl"
    begun, first = time.monotonic(), None
    with said.open("w") as log:
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        while child.poll() is None:
            minute = (time.monotonic() - begun) / 60
            if first is None and record.exists() and record.stat().st_size:
                first = minute
            if first is not None and minute - first >= minutes:
                break
            used = resources(child.pid)
            if used is not None:
                resident, cpu = used
                # The pattern excludes a checkpoint that is being written.
                count = len(list(run_dir.glob("checkpoints/[0-9]*")))
                samples.append(Sample(minute, resident, count, cpu))
                if len(samples) % 24 == 0:
                    print(
                        f"[{minute:5.1f} min] {resident:,.0f} MB, {count} checkpoints",
                        flush=True,
                    )
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=_EVERY)
        child.send_signal(signal.SIGTERM)
        code = child.wait(timeout=600)
    finally:
        child.kill()
        child.wait()
    if code != 143 or first is None:
        lines = said.read_text().splitlines()[-5:]
        raise RuntimeError(f"the run ended with code {code}: {' / '.join(lines)}")
    # The trainer's clock, like ours, starts with its process.
    timing = jsonl.read(run_dir / "timing.jsonl")
    ticks = [((row["time/seconds"] or 0) / 60, int(row["step"] or 0)) for row in timing]
    return samples, ticks, first


def draw(
    samples: Sequence[Sample], parts: Sequence[tuple[float, float]], *, warm: float
) -> Figure:
    """Memory and speed against time; the warm-up is shaded."""
    figure = Figure(figsize=(9, 3.6), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    minutes = [sample.minute for sample in samples]
    left.plot(minutes, [sample.resident_mb for sample in samples], color="C0")
    left.set_ylabel("resident memory, MB")
    if parts:
        right.plot(*zip(*parts, strict=True), color="C1", marker=".")
    right.set_ylabel("environment steps per CPU second")
    for axes in (left, right):
        axes.axvspan(0, warm, color="0.9", label="warm-up")
        axes.set_xlabel("minutes")
        axes.set_xlim(0, minutes[-1])
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    left.legend(loc="lower right", fontsize="small")
    return figure


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; exit code 1 where a limit is exceeded."""
    return command(_parser(), _run, argv)


def _run(options: argparse.Namespace) -> int:
    preset, minutes = options.preset, options.minutes
    if options.quick:
        preset, minutes = "smoke", min(minutes, 2.0)
    extra = [word for word in options.flags if word != "--"]
    env = options.env or ("toy-target" if options.quick else "cartpole-balance")
    words = ["--preset", preset, "--env", env, "--steps", "2e9"]
    words += ["--replay-size", "20000", *extra]
    try:
        with tempfile.TemporaryDirectory() as folder:
            run_dir = options.logdir or Path(folder) / "run"
            samples, ticks, first = watch(words, run_dir, minutes)
        warm = first + WARM_UP * minutes
        verdicts = judge(samples, ticks, warm=warm)
        parts = speeds(samples, ticks, first, samples[-1].minute)
        result: dict[str, Any] = {
            "flags": words,
            "minutes": minutes,
            "warm_up_minutes": warm,
            "verdicts": [verdict._asdict() for verdict in verdicts],
            "samples": [sample._asdict() for sample in samples],
            "steps_per_cpu_second": [{"minute": m, "value": r} for m, r in parts],
        }
        text = "\n".join(str(verdict) for verdict in verdicts)
        drawn = functools.partial(draw, samples, parts, warm=warm)
        publish(options, result, text, drawn, with_device=False)
    except (RuntimeError, ValueError) as error:
        raise UserError(str(error)) from error
    return 0 if options.quick or all(verdict.kept for verdict in verdicts) else 1


def _parser() -> Parser:
    parser = Parser(
        "throughput.soak",
        description="Watch a long run's memory, speed and checkpoints.",
    )
    parser.add_argument("--minutes", type=amount, default=120.0)
    parser.add_argument("--preset", default="laptop")
    parser.add_argument("--env", help="default cartpole-balance")
    parser.add_argument(
        "--logdir", type=Path, metavar="DIR", help="keep the run here (a new folder)"
    )
    parser.add_outputs(quick="2 minutes, smoke preset")
    parser.add_argument("flags", nargs="*", help="after --: for train.main")
    return parser


if __name__ == "__main__":
    sys.exit(main())
