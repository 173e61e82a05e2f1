"""One training step beside other programs' steps, in one run.

    python -m benchmarks.throughput --size 1m --beside "NAME=COMMAND" [--beside ...]
        [--rounds N] [--json OUT] [--png OUT]

Figures of different hours differ by a factor of two on a shared machine, so a peer is
timed here and not quoted. COMMAND starts a program that compiles its step, prints a
line `ready`, and then for each line that it reads makes one step and prints a line with
its wall and its processor seconds; `{size}` in it is the size. Programs take turns, in
another order in each round, and ratios are of one round. Ours are the step without and
with the GPLD paper's penalty (posterior, ρ = 0.5), at the paper's shapes (16 sequences
of 64 steps, imagination length 25) in float32.

`peers/gpld_released.py` is such a program for the code that GPLD's authors released.
"""

import argparse
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from benchmarks.cli import MEASURED, QUICK, publish
from benchmarks.measure.tables import text_table
from benchmarks.measure.timing import Cost, Interval, bars, order, paired
from benchmarks.overhead.rows import Variant
from benchmarks.overhead.steps import Bench, Program
from train.config import Config
from train.errors import UserError

OURS, PENALIZED = "ours", "ours, with penalty"


class Peer:
    """Another program, which makes one step for each line that it is sent."""

    def __init__(self, name: str, command: str) -> None:
        self.name, self.command = name, command
        try:
            self.process = subprocess.Popen(
                shlex.split(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        except (OSError, ValueError) as error:
            raise UserError(f"--beside {name}: {command}: {error}") from error

    def wait(self) -> None:
        """Until it is ready, whatever else it prints before."""
        while (line := self._line()) != "ready":
            print(f"{self.name}: {line}", flush=True)

    def step(self) -> Cost:
        """Make one step.

        Raises:
            UserError: the program ended, or printed something else.
        """
        process = self.process
        assert process.stdin is not None
        try:
            process.stdin.write("\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # what it lacks to say is found below
        line = self._line()
        try:
            wall, processor = map(float, line.split())
        except ValueError:
            raise UserError(
                f"--beside {self.name}: printed {line!r}; expected the wall and the "
                "processor seconds of one step"
            ) from None
        return Cost(wall, processor)

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            raise UserError(
                f"--beside {self.name}: {self.command}: ended with exit code {code}"
            )
        return line.strip()


class Row(NamedTuple):
    """What one program's step took, and its ratios to ours without penalty."""

    name: str
    wall: Interval
    processor: Interval
    wall_ratio: Interval
    processor_ratio: Interval

    def record(self) -> dict[str, Any]:
        """As JSON."""
        name, *intervals = self._asdict().items()
        return dict([name, *((key, value._asdict()) for key, value in intervals)])


def peer_of(text: str) -> tuple[str, str]:
    """NAME=COMMAND."""
    name, equals, command = text.partition("=")
    if not (name.strip() and equals and command.strip()):
        raise argparse.ArgumentTypeError(f"{text}: expected NAME=COMMAND")
    return name.strip(), command.strip()


def measure(
    config: Config, peers: Sequence[tuple[str, str]], *, rounds: int
) -> list[Row]:
    """Time our step and those of the peers, in `rounds` rounds after a warm-up."""
    names = [OURS, PENALIZED, *(name for name, _ in peers)]
    if len(set(names)) < len(names):
        raise UserError(f"--beside: names must differ: {', '.join(names)}")
    with ExitStack() as stack:
        # Started before ours are compiled, and so compiled beside them.
        started = [
            stack.enter_context(
                closing(Peer(name, command.replace("{size}", config.size)))
            )
            for name, command in peers
        ]
        bench = Bench(config)
        penalty = Variant("xla", "posterior", 0.5, "rademacher", 1).options
        programs = {OURS: timed(bench.compile(None))}
        programs[PENALIZED] = timed(bench.compile(penalty))
        for peer in started:
            peer.wait()
            programs[peer.name] = peer.step
        return rows(take_turns(programs, rounds=rounds))


def timed(program: Program) -> Callable[[], Cost]:
    """One call of the program, waited for."""

    def call() -> Cost:
        wall, processor = time.perf_counter(), time.process_time()
        jax.block_until_ready(program.call())
        return Cost(time.perf_counter() - wall, time.process_time() - processor)

    return call


def take_turns(
    programs: Mapping[str, Callable[[], Cost]], *, rounds: int
) -> dict[str, list[Cost]]:
    """The costs of every program in every round, after one that does not count."""
    costs: dict[str, list[Cost]] = {name: [] for name in programs}
    turn = list(programs.items())
    for number in range(rounds + 1):
        for name, program in (turn[place] for place in order(len(turn), number)):
            cost = program()
            if number:
                costs[name].append(cost)
    return costs


def rows(costs: Mapping[str, Sequence[Cost]]) -> list[Row]:
    """Medians with 95 % intervals, and ratios of the same round."""
    base = costs[OURS]
    found = []
    for name, own in costs.items():
        wall, processor = zip(*own, strict=True)
        base_wall, base_processor = zip(*base, strict=True)
        found.append(
            Row(
                name,
                Interval.of(wall),
                Interval.of(processor),
                paired(wall, base_wall),
                paired(processor, base_processor),
            )
        )
    return found


def table(size: str, found: Sequence[Row]) -> str:
    """The rows as text."""
    head = ["one step", "ms", "ratio", "processor ms", "ratio"]
    lines = [
        [
            row.name,
            f"{1e3 * row.wall.median:,.0f}",
            _ratio(row.wall_ratio),
            f"{1e3 * row.processor.median:,.0f}",
            _ratio(row.processor_ratio),
        ]
        for row in found
    ]
    text = text_table([f"{size}: {head[0]}", *head[1:]], lines)
    return f"{text}\nmedians; in brackets 95 % intervals over the rounds"


def _ratio(ratio: Interval) -> str:
    return f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def draw(size: str, found: Sequence[Row]) -> Figure:
    """Both ratios of every program."""
    figure = Figure(figsize=(7, 1.2 + 0.45 * len(found)), dpi=150, layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(found))
    for shift, label, ratios in (
        (-0.19, "wall time", [row.wall_ratio for row in found]),
        (0.19, "processor time", [row.processor_ratio for row in found]),
    ):
        medians = [ratio.median for ratio in ratios]
        axes.barh(places + shift, medians, 0.36, xerr=bars(ratios), label=label)
    axes.set_yticks(places, [row.name for row in found])
    axes.invert_yaxis()
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xlabel(f"one step at {size}, as a multiple of ours without penalty")
    axes.legend(fontsize="small")
    return figure


def run(options: argparse.Namespace, config: Config) -> None:
    """Measure and publish; `options` are those of `benchmarks.throughput`."""
    rounds = options.rounds or (2 if options.quick else 9)
    found = measure(config, options.beside, rounds=rounds)
    record: dict[str, Any] = {
        "what": QUICK if options.quick else MEASURED,
        "size": config.size,
        "batch_size": config.batch_size,
        "batch_length": config.batch_length,
        "imagination_length": config.imagination_length,
        "rounds": rounds,
        "rows": [row.record() for row in found],
    }
    drawn = lambda: draw(config.size, found)
    publish(options, record, table(config.size, found), drawn)
