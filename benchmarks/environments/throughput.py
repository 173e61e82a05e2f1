"""Speed of the environments: control steps per second, by task and batch size.

    python -m benchmarks.environments.throughput [--quick] [--all] [--tasks TASK ...]
                                        [--batch 1,16,128] [--json OUT] [--png OUT]

By default one task per domain is timed, because the tasks of a domain share a model.

The MJX program is that of training: physics, observation, reward and automatic reset
with random actions, in float32, as one compiled loop. The reference is MuJoCo C
(`mujoco.rollout`), physics only, in float64. The programs of a task run in interleaved
rounds. Memory is as reported by XLA.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from matplotlib.figure import Figure

import envs
from benchmarks.cli import MEASURED, QUICK, Parser, command, count, counts, publish
from benchmarks.environments.parity import chosen_tasks
from benchmarks.measure.rollouts import ACTION_REPEAT, make, mjx_rollout, mujoco_rollout
from benchmarks.measure.tables import text_table
from benchmarks.measure.timing import Spread, bars, interleave
from envs import registry

BATCHES = (16, 128)
ROUNDS, ROUND_SECONDS = 5, 0.5
QUICK_TASKS = ("cartpole-balance", "walker-walk")


class Row(NamedTuple):
    """The result of one program."""

    task: str
    program: str
    batch: int | None
    """Environments in the batch; None for MuJoCo C."""
    threads: int | None
    """Threads of MuJoCo C; None for MJX, where XLA decides."""
    steps_per_second: Spread
    """Control steps per second, summed over environments."""
    physics_per_control: int
    compile_seconds: float | None
    temporary_bytes: int | None
    state_bytes: int | None
    corrupt_share: float | None


def measure(
    task: str,
    batches: Sequence[int],
    *,
    rounds: int,
    seconds: float,
    say: Callable[[str], None],
) -> list[Row]:
    """Compile and time all programs of one task, each about `seconds` per round."""
    env = make(task)
    device, host = {}, {}
    for batch in batches:
        say(f"{task}: compiling {batch}")
        device[f"MJX, {batch}"] = batch, mjx_rollout(env, batch, seconds=seconds)
    for threads in sorted({1, cores()}):
        name = f"MuJoCo C, {threads} thread{'s' if threads > 1 else ''}"
        host[name] = threads, mujoco_rollout(env, threads=threads, seconds=seconds)
    programs = {name: found.run for name, (_, found) in {**device, **host}.items()}
    taken = interleave(
        programs,
        rounds=rounds,
        progress=lambda done: say(f"{task}: round {done}/{rounds}"),
    )
    rows = []
    for name, (number, found) in {**device, **host}.items():
        on_device = name in device
        speeds = [found.control_steps / s for s in taken[name]]
        rows.append(
            Row(
                task=task,
                program=name,
                batch=number if on_device else None,
                threads=None if on_device else number,
                steps_per_second=Spread.of(speeds),
                physics_per_control=env.n_substeps,
                compile_seconds=found.compile_seconds if on_device else None,
                temporary_bytes=found.temporary_bytes if on_device else None,
                state_bytes=found.state_bytes if on_device else None,
                corrupt_share=found.corrupt_share() if on_device else None,
            )
        )
    return rows


def cores() -> int:
    """CPU cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def one_of_each_domain() -> list[str]:
    """The default task of each domain."""
    return [envs.canonical_name(domain) for domain in registry.DOMAINS]


def table(rows: Sequence[Row]) -> str:
    """The rows as text."""
    head = ["", "control steps/s", "quartiles", "compile s", "kB/env"]
    cells: list[list[str]] = []
    previous = None
    for row in rows:
        if row.task != previous:
            each = row.physics_per_control
            cells.append([f"{row.task} ({each} physics steps per control step)"])
        previous = row.task
        speed = row.steps_per_second
        line = [f"  {row.program}", f"{speed.median:,.0f}", speed.quartiles]
        if row.compile_seconds is not None:
            line.append(f"{row.compile_seconds:.1f}")
        if row.temporary_bytes is not None and row.batch is not None:
            line.append(f"{row.temporary_bytes / row.batch / 1e3:.1f}")
        cells.append(line)
    return text_table(head, cells)


def draw(rows: Sequence[Row], title: str) -> Figure:
    """Speed by task: a point with quartiles for each program, logarithmic."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    programs = list(dict.fromkeys(row.program for row in rows))
    figure = Figure(figsize=(9, 1.6 + 0.5 * len(tasks)), dpi=150, layout="constrained")
    axes = figure.subplots()
    markers = "os^Dv<>p"
    for number, program in enumerate(programs):
        found = [row for row in rows if row.program == program]
        places = [tasks.index(row.task) for row in found]
        offset = 0.5 * (number / max(1, len(programs) - 1) - 0.5)
        speeds = [row.steps_per_second for row in found]
        is_host = found[0].batch is None
        axes.errorbar(
            [speed.median for speed in speeds],
            [place + offset for place in places],
            xerr=bars(speeds),
            fmt=markers[number % len(markers)],
            color="0.45" if is_host else f"C{number}",
            markerfacecolor="white" if is_host else None,
            capsize=2,
            label=f"{program} (physics alone)"
            if is_host
            else f"{program} environment{'s' if found[0].batch != 1 else ''}",
        )
    axes.set_xscale("log")
    axes.set_yticks(range(len(tasks)), tasks)
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.set_xlabel("control steps per second, all environments together")
    axes.set_title(title)
    axes.grid(alpha=0.3, which="both", axis="x")
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize="small")
    return figure


def record(rows: Sequence[Row]) -> dict[str, Any]:
    """The rows and their settings for the result file."""
    return {
        "action_repeat": ACTION_REPEAT,
        "device": jax.devices()[0].device_kind,
        "notes": (
            "MJX rows: physics, observation, reward and automatic reset in float32. "
            "MuJoCo C rows: mujoco.rollout of the same model, physics alone in float64."
        ),
        "rows": [
            {**row._asdict(), "steps_per_second": row.steps_per_second._asdict()}
            for row in rows
        ],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return command(_parser(), _run, argv)


def _run(options: argparse.Namespace) -> None:
    default = envs.TASKS if options.all else one_of_each_domain()
    default = QUICK_TASKS if options.quick else default
    tasks = chosen_tasks(options.tasks, default)
    batches = options.batch or ([4] if options.quick else BATCHES)
    rounds = options.rounds or (2 if options.quick else ROUNDS)
    seconds = 0.1 if options.quick else ROUND_SECONDS
    # With the cache, compile times would be those of reading it.
    jax.config.update("jax_enable_compilation_cache", False)
    found: list[Row] = []
    tables: list[str] = []
    for task in tasks:
        # A progress line that overwrites itself, only on a terminal.
        def say(text: str) -> None:
            if sys.stderr.isatty():
                print(f"\r{text:60}", end="", file=sys.stderr, flush=True)

        rows = measure(task, batches, rounds=rounds, seconds=seconds, say=say)
        say("")
        found += rows
        print(f"{task}: measured", flush=True)
        tables.append(table(rows))
        jax.clear_caches()
    checked = options.quick or options.rounds == 1
    title = f"Environments on {cores()} CPU cores"
    if jax.default_backend() != "cpu":
        title = f"Environments on {jax.devices()[0].device_kind}"
    title += f": {QUICK}" if checked else ""
    what = QUICK if checked else MEASURED
    result = {"what": what, "rounds": rounds, **record(found)}
    text = "\n" + "\n\n".join(tables)
    publish(options, result, text, lambda: draw(found, title))


def _parser() -> Parser:
    parser = Parser(
        "environments.throughput",
        description="Time the environments and, for reference, MuJoCo C.",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--tasks", nargs="+", metavar="TASK")
    which.add_argument("--all", action="store_true", help="all tasks of each domain")
    parser.add_argument(
        "--batch", type=counts, metavar="N,N", help="batch sizes (default 16,128)"
    )
    parser.add_argument("--rounds", type=count, help="timed rounds (default 5)")
    parser.add_outputs(quick="two tasks, one batch")
    return parser


if __name__ == "__main__":
    sys.exit(main())
