"""What a newcomer waits for: the start of a run until its first updates are done.

    python -m benchmarks.throughput --start [--run "FLAGS"]... [--rounds N]
        [--json OUT] [--png OUT]

Each run is `python -m train.main FLAGS` in a process of its own, started with an empty
compilation cache and again with what the first start left in it, and stopped after its
first updates. Seconds are those that the run itself prints; those between its phases
(imports, the description of the run) are `other`. JAX's log says how long each program
was traced, lowered, and compiled or read from the cache, beside the others.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from benchmarks.cli import publish
from benchmarks.measure.tables import text_table
from train.errors import UserError

RUNS = (
    "--env walker --preset laptop",
    "--env quadruped --obs pixels --preset laptop",
)
QUICK_RUNS = ("--env toy-target --preset smoke",)
COMMAND = (sys.executable, "-u", "-m", "train.main")
OTHER = "other"

_PHASE = re.compile(r"(.*) \.\.\. ([0-9.]+) s$")
_STAGES = {
    "traced": re.compile(r"Finished tracing (\S+) for jit in ([0-9.]+) sec"),
    "lowered": re.compile(r"Finished jaxpr to MLIR .* jit\((\S+)\) in ([0-9.]+) sec"),
    "compiled": re.compile(
        r"Finished XLA compilation of jit\((\S+)\) in ([0-9.]+) sec"
    ),
}
PROGRAMS = ("init", "prefill", "chunk", "play")
_DONE = re.compile(r"first updates done ([0-9]+) s after the start$")


class Start(NamedTuple):
    """One start of a run.

    Attributes:
        run: its flags.
        cached: the compilation cache was filled by the start before.
        seconds: from the start of the program to the end of its first updates.
        processor_seconds: of all its threads, until then; None where the system does
            not say.
        phases: seconds of each phase; together they are `seconds`.
        programs: seconds in which each of `PROGRAMS` was traced, lowered, and compiled
            or read from the cache; several at once, and the evaluation (`play`) only as
            far as it was by then.
    """

    run: str
    cached: bool
    seconds: float
    processor_seconds: float | None
    phases: dict[str, float]
    programs: dict[str, dict[str, float]]


def start(run: str, folder: Path, *, cached: bool) -> Start:
    """Start a run and stop it after its first updates.

    Args:
        folder: for the run directory and the compilation cache.

    Raises:
        UserError: the run ended before.
    """
    place = folder / ("again" if cached else "first")
    said: list[str] = []
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    with (
        (folder / "log").open("w+", encoding="utf-8", errors="replace") as log,
        subprocess.Popen(
            [*COMMAND, *run.split(), "--logdir", str(place)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | cache | {"JAX_LOG_COMPILES": "1"},
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line.strip())
            if _DONE.search(said[-1]):
                used = _processor_seconds(process.pid)
                process.send_signal(signal.SIGTERM)
                process.communicate()
                log.seek(0)
                programs = _programs(log.read())
                return Start(run, cached, _seconds(said), used, _phases(said), programs)
        process.wait()
        log.seek(0)
        said += log.read().splitlines()
    raise UserError(
        f"--run {run!r}: ended with exit code {process.returncode} before its first "
        f"updates: {said[-1] if said else 'it printed nothing'}"
    )


def _programs(log: str) -> dict[str, dict[str, float]]:
    """Seconds of each program by stage, from JAX's log."""
    found: dict[str, dict[str, float]] = {}
    for stage, pattern in _STAGES.items():
        for name, seconds in pattern.findall(log):
            if name in PROGRAMS:
                found.setdefault(name, {})[stage] = float(seconds)
    return found


def _seconds(said: Sequence[str]) -> float:
    """The seconds of the last line."""
    found = _DONE.search(said[-1])
    assert found is not None
    return float(found[1])


def _phases(said: Sequence[str]) -> dict[str, float]:
    """Seconds by phase; what no phase took is `OTHER`."""
    found = [_PHASE.fullmatch(line) for line in said]
    phases = {phase[1]: float(phase[2]) for phase in found if phase}
    return {OTHER: max(0.0, _seconds(said) - sum(phases.values()))} | phases


def _processor_seconds(process: int) -> float | None:
    """User and system time of a process that runs, where there is a /proc."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(runs: Sequence[str], *, rounds: int) -> list[Start]:
    """Every run with an empty and with a filled cache, `rounds` times."""
    found = []
    for _ in range(rounds):
        for run in runs:
            with tempfile.TemporaryDirectory() as folder:
                for cached in (False, True):
                    found.append(start(run, Path(folder), cached=cached))
                    print(table(found[-1:]).splitlines()[-1], flush=True)
    return found


def table(found: Sequence[Start]) -> str:
    """A line for each start."""
    lines = [
        [
            each.run,
            "filled" if each.cached else "empty",
            f"{each.seconds:.0f}",
            f"{each.processor_seconds:.0f}" if each.processor_seconds else "-",
            ", ".join(f"{name} {seconds:.0f}" for name, seconds in _long(each)),
        ]
        for each in found
    ]
    head = ["run", "cache", "seconds", "processor", "of which"]
    return text_table(head, lines, left=2)


def program_table(found: Sequence[Start]) -> str:
    """A line for each program of each start."""
    lines = [
        [
            each.run,
            "filled" if each.cached else "empty",
            name,
            *(f"{x:.1f}" if (x := stages.get(stage)) else "-" for stage in _STAGES),
        ]
        for each in found
        for name, stages in each.programs.items()
    ]
    return text_table(["run", "cache", "program", *_STAGES], lines, left=3)


def _long(each: Start) -> list[tuple[str, float]]:
    return [(name, x) for name, x in each.phases.items() if x >= 0.5]


def draw(found: Sequence[Start]) -> Figure:
    """The phases of every start, one after another."""
    figure = Figure(figsize=(9, 1.6 + 0.5 * len(found)), dpi=150, layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(name for each in found for name in each.phases))
    left = np.zeros(len(found))
    for name in names:
        width = np.array([each.phases.get(name, 0.0) for each in found])
        axes.barh(np.arange(len(found)), width, left=left, label=name)
        left += width
    labels = [
        f"{each.run}\n{'filled' if each.cached else 'empty'} cache" for each in found
    ]
    axes.set_yticks(np.arange(len(found)), labels, fontsize="small")
    axes.invert_yaxis()
    axes.set_xlabel("seconds from the start of the program")
    figure.legend(fontsize="small", ncols=3, loc="outside lower center")
    return figure


def run(options: argparse.Namespace) -> None:
    """Measure and publish; `options` are those of `benchmarks.throughput`."""
    runs = options.run or (QUICK_RUNS if options.quick else RUNS)
    rounds = options.rounds or 1
    found = measure(runs, rounds=rounds)
    result: dict[str, Any] = {
        "rounds": rounds,
        "starts": [each._asdict() for each in found],
    }
    tables = f"{table(found)}\n\n{program_table(found)}"
    publish(options, result, tables, lambda: draw(found))
