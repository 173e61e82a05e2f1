"""Speed of training, and its time by phase.

    python -m benchmarks.throughput [--size 1m,12m] [--seeds 1,4,8] [--quick]
        [--profile DIR] [--json OUT] [--png OUT]
    python -m benchmarks.throughput --devices 1,2,4,8 [--size 12m]   several devices
    python -m benchmarks.throughput --beside "NAME=COMMAND" [--size 1m]   other programs
    python -m benchmarks.throughput --start   until the first updates are done

Three measurements. Update: seconds of one optimizer step at the GPLD paper's shapes (16
sequences of 64 steps, imagination length 25), by phase (as differences between programs
with and without it), and the FLOP/s of its matrix products relative to a large product
on this machine. Seeds: several agents in one program against one. Loop: the whole
training loop of the default preset, from environment step to logging.

Programs run in interleaved rounds, several updates per program, as in training.
"""

import argparse
import dataclasses
import functools
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from benchmarks.cli import Parser, command, count, counts, publish
from benchmarks.throughput import beside, scaling, start
from benchmarks.throughput.measure import (
    Progress,
    cached_in,
    loop_work,
    measure_loop,
    measure_seeds,
    measure_update,
    profile,
    seeds_work,
    update_work,
)
from benchmarks.throughput.report import draw, table, trace_table
from core.sizes import SIZES
from train.config import Config
from train.config.presets import build, preset_values
from train.errors import UserError
from train.processes import coordination

TIMES = {"1m": 8, "12m": 4}
"""Updates per program, by size; 2 for other sizes. At every call a program allocates
memory, which the kernel zeroes: in training only once per hundreds of updates."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return command(_parser(), _run, argv)


def _run(options: argparse.Namespace) -> None:
    if options.start:
        return start.run(options)
    if options.run:
        raise UserError("--run: only with --start")
    if options.devices is not None:
        return scaling.run(options, options.size[-1], options.devices)
    if options.beside:
        size = options.size[0]
        return beside.run(options, _paper(size, quick=options.quick))
    # As in training with several agents; must precede JAX's initialization.
    devices = max(map(coordination.cpu_devices, options.seeds))
    coordination.offer_cpu_devices(devices)
    # No compilation cache, so that compile times are real.
    with cached_in(None):
        measure(options, options.size, options.seeds)


def measure(options: argparse.Namespace, sizes: list[str], seeds: list[int]) -> None:
    """Run all measurements and publish the result."""
    begun = time.perf_counter()
    given = options.times or (2 if options.quick else None)
    rounds = options.rounds or (2 if options.quick else 7)
    if options.quick:
        sizes, seeds = sizes[:1], seeds[:2]
    papers = [_paper(size, quick=options.quick) for size in sizes]
    loop_config = _loop_config(quick=options.quick)
    times = [given or TIMES.get(config.size, 2) for config in papers]
    progress = Progress(
        sum(
            update_work(config, times=count, rounds=rounds)
            for config, count in zip(papers, times, strict=True)
        )
        + seeds_work(papers[0], seeds, times=times[0], rounds=rounds)
        + loop_work(loop_config, rounds=rounds)
    )
    traces = {}
    lines: list[str] = []
    if options.profile is not None:
        for config in papers:
            found = profile(config, options.profile / config.size)
            lines.append(f"{config.size}: {trace_table(found)}")
            traces[config.size] = found
        lines.append(f"wrote traces: tensorboard --logdir {options.profile}")
    updates = [
        measure_update(config, times=count, rounds=rounds, progress=progress)
        for config, count in zip(papers, times, strict=True)
    ]
    together = measure_seeds(
        papers[0], seeds, times=times[0], rounds=rounds, progress=progress
    )
    loop = measure_loop(loop_config, rounds=rounds, progress=progress)
    result = {
        "rounds": rounds,
        "updates_in_a_program": dict(zip(sizes, times, strict=True)),
        "wall_seconds": time.perf_counter() - begun,
        "updates": [found.record() for found in updates],
        "seeds": [found.record() for found in together],
        "loop": loop.record(),
        "traces": traces,
    }
    lines.append(table(updates, together, loop))
    drawn = functools.partial(draw, updates, together, loop)
    publish(options, result, "\n".join(lines), drawn)


def _paper(size: str, *, quick: bool) -> Config:
    values = preset_values("gpld", platform=jax.default_backend()) | {"--size": size}
    if quick:
        values |= {"--batch-size": 4, "--batch-length": 8, "--imagination-length": 4}
    return dataclasses.replace(build(values), env="walker-walk")


def _loop_config(*, quick: bool) -> Config:
    """The default preset on this machine, with a filled replay buffer."""
    preset = "smoke" if quick else "auto"
    config = build(preset_values(preset, platform=jax.default_backend()))
    return dataclasses.replace(config, env="walker-walk", replay_size=50_000)


def _sizes(text: str) -> list[str]:
    sizes = text.split(",")
    for size in sizes:
        if size not in SIZES:
            allowed = ", ".join(SIZES)
            raise argparse.ArgumentTypeError(f"{size}: allowed: {allowed}")
    return sizes


def _parser() -> Parser:
    parser = Parser(
        "throughput",
        description="Time an update by phase, several agents, and the whole loop.",
    )
    parser.add_argument("--size", type=_sizes, default=["1m", "12m"], metavar="A,B")
    parser.add_argument("--seeds", type=counts, default=[1, 4, 8], metavar="A,B")
    parser.add_argument(
        "--devices",
        type=counts,
        metavar="A,B",
        help="only time one update, on each of these numbers of devices",
    )
    parser.add_argument(
        "--beside",
        type=beside.peer_of,
        action="append",
        metavar="NAME=COMMAND",
        help="only time one update of the first size beside another program's, see "
        "benchmarks/throughput/beside.py",
    )
    parser.add_argument(
        "--start",
        action="store_true",
        help="only time the start of runs, with an empty and a filled compiler cache",
    )
    parser.add_argument(
        "--run",
        action="append",
        metavar="FLAGS",
        help="flags of a run for --start (default: "
        + "; ".join(repr(each) for each in start.RUNS)
        + ")",
    )
    parser.add_argument(
        "--times", type=count, help="updates per program (default 8 at 1m, 4 at 12m)"
    )
    parser.add_argument("--rounds", type=count, help="timed rounds (default 7)")
    parser.add_argument(
        "--profile", type=Path, metavar="DIR", help="also write profiler traces here"
    )
    parser.add_outputs(quick="small shapes, few rounds")
    return parser


if __name__ == "__main__":
    sys.exit(main())
