"""Does a long run stay as it began: memory, speed, number of checkpoints?

    python -m benchmarks.soak [--minutes 120] [--preset laptop] [--env NAME]
        [--logdir DIR] [--json OUT] [--png OUT] [--quick] [-- FLAGS OF train.main]

Starts the trainer as a child, reads its resident memory while it runs, stops it by
SIGTERM, and judges what came after the warm-up: resident memory must grow by less than
1 MB in 10 minutes, the speed must change by less than a tenth over the time measured,
and checkpoints must not pile up. The speed is environment steps a second of processor
time: what else runs on the machine, or a pause, hardly changes it. With `--logdir` the
run is kept; without, it is deleted. The replay is kept small
(--replay-size 20000), so that it is full when the warm-up ends: its memory is taken
only when it is written. The minutes count from the first logged step. Reads /proc, so
Linux only.

`--quick` runs a toy with the smoke preset for two minutes: a check of the machinery.
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
from train.metrics import jsonl

WARM_UP = 0.25
"""Share of the time that is not judged: the replay fills, the allocator settles."""
MEMORY_LIMIT = 1.0
"""Megabytes in 10 minutes."""
SPEED_LIMIT = 0.1
"""Share of the speed, from the beginning of the judged time to its end."""
CHECKPOINTS_LIMIT = 4
"""Three are kept, and a new one is there before the oldest goes."""
_WINDOWS = 12  # of the judged time, each giving one speed
_EVERY = 5.0  # seconds between two samples


class Sample(NamedTuple):
    """What was seen at one moment."""

    minute: float
    resident_mb: float
    checkpoints: int
    cpu_seconds: float


class Verdict(NamedTuple):
    """One promise, and whether it was kept."""

    what: str
    value: float
    limit: float
    kept: bool

    def __str__(self) -> str:
        word = "PASS" if self.kept else "FAIL"
        return f"{word} {self.what}: {self.value:.3g} (limit {self.limit:g})"


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The least-squares slope; 0 of fewer than two different `x`."""
    if len(set(x)) < 2:
        return 0.0
    return float(np.polyfit(x, y, 1)[0])


def speeds(
    samples: Sequence[Sample],
    ticks: Sequence[tuple[float, int]],
    begin: float,
    end: float,
) -> list[tuple[float, float]]:
    """Middle (minutes) and steps a processor second of equal parts of a time.

    Args:
        samples: what was seen, ascending in time; gives the processor time.
        ticks: minute and environment step, ascending.
        begin: first minute, `end`: last minute.
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
    """The three promises, over the samples after minute `warm`.

    Raises:
        ValueError: no sample, or no speed, came after the warm-up.
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
    """Resident megabytes of its own and processor seconds; None when it is gone.

    Pages of files are left out: the system takes them back when it likes.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        # The second field is the name in brackets, which may hold blanks.
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
    """Run the trainer for so many minutes after its first logged step.

    Returns:
        Samples, the trainer's own (minute, step), and the minute of the first step,
        all counted from the start of the process.

    Raises:
        RuntimeError: it ended by itself, or otherwise than SIGTERM should end it, or
            the folder holds a run already.
    """
    command = [sys.executable, "-m", "train.main", *words, "--logdir", str(run_dir)]
    said = run_dir.with_name(f"{run_dir.name}-said.log")
    if (run_dir / "metrics.jsonl").exists():
        raise RuntimeError(f"{run_dir}: holds a run already; name a new folder")
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    samples: list[Sample] = []
    # Begins with the first chunk; the record begins before, with an evaluation.
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
                # A save in progress has another name.
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
    # The trainer's own clock began with its process, as ours did.
    timing = jsonl.read(run_dir / "timing.jsonl")
    ticks = [((row["time/seconds"] or 0) / 60, int(row["step"] or 0)) for row in timing]
    return samples, ticks, first


def draw(
    samples: Sequence[Sample], parts: Sequence[tuple[float, float]], *, warm: float
) -> Figure:
    """Memory and speed against time; what is not judged is shaded."""
    figure = Figure(figsize=(9, 3.6), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    minutes = [sample.minute for sample in samples]
    left.plot(minutes, [sample.resident_mb for sample in samples], color="C0")
    left.set_ylabel("resident memory, MB")
    if parts:
        right.plot(*zip(*parts, strict=True), color="C1", marker=".")
    right.set_ylabel("environment steps a processor second")
    for axes in (left, right):
        axes.axvspan(0, warm, color="0.9", label="not judged")
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
        "soak",
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
