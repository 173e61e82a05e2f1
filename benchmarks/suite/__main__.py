"""Many runs as one job: tasks x arms x seeds from one declarative file.

    python -m benchmarks.suite smoke --folder DIR             a self-test, two minutes
    python -m benchmarks.suite evidence --folder DIR          make all runs
    python -m benchmarks.suite evidence --folder DIR --status what is done, and what not
    python -m benchmarks.suite my.toml --folder DIR --json OUT --png OUT

Start the same command in several processes, or as an array of a batch system: no run is
made twice. Killed and started again, it goes on from the last checkpoint of each run.
A run that ends with an error is tried again by the next start, once, and stops no
other. Results are written after every run. On a CPU each run has one core to itself and
as many go side by side as there are cores; on a GPU one goes after another.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cli import Parser, command, count, save_figure
from benchmarks.suite import results
from benchmarks.suite.declare import FILES, Cell, Suite, load
from benchmarks.suite.place import Place
from benchmarks.suite.report import report, status_table
from train.errors import UserError, one_line, tell
from train.processes.cores import usable_cores


def main(argv: Sequence[str] | None = None, *, program: str = "suite") -> int:
    """Run the command line; the exit code.

    0 done, 1 a run failed, 2 a mistake in the command or the suite file; 130 or 143
    stopped by a signal. `program` is the name in the help and in messages.
    """
    return command(_parser(program), _run, argv)


def _run(options: argparse.Namespace) -> int:
    suite = load(options.name, quick=options.quick)
    if not options.status:
        _check_kept(suite, options)
    if options.status:
        print(status_table(suite, options.folder, _known(options), _jobs(options, "")))
        return 0
    code = 0
    if not options.aggregate_only:
        code = _work(suite, options)
    return max(code, _publish(suite, options, last=True))


def _work(suite: Suite, options: argparse.Namespace) -> int:
    from benchmarks.suite.runner import Runner

    platform = default_backend()
    known = {
        results.cell_of(run) for run in results.merge(suite, [], _known(options)).runs
    }

    def publish(_: Cell) -> None:
        try:
            _publish(suite, options, last=False)
        except UserError as error:  # the other runs go on
            tell(f"warning: {one_line(error)}", sys.stderr)

    runner = Runner(
        suite,
        options.folder,
        jobs=_jobs(options, platform),
        pin=platform == "cpu" and hasattr(os, "sched_setaffinity"),
        done=known.__contains__,
        on_finished=publish,
    )
    tally = runner.work()
    if tally.failed:
        names = ", ".join(map(str, tally.failed))
        tell(f"failed: {names}; logs beside their folders", sys.stderr)
    return tally.exit_code


def _publish(suite: Suite, options: argparse.Namespace, *, last: bool) -> int:
    """Write, and at the end print and draw, what is known so far."""
    with results.alone(options.folder):
        found = results.collect(suite, options.folder)
        merged = results.merge(suite, found, _known(options))
        path = _own(options)
        written = results.write(suite, merged.runs, path, quick=options.quick)
    if not last:
        return 0
    for line in merged.refused:
        tell(f"not merged: {line}", sys.stderr)
    print(report(written))
    waiting = sum(Place.of(options.folder, cell).in_use() for cell in suite.cells())
    if waiting:
        print(f"{waiting} runs are being made by other processes")
    print(f"wrote {path}")
    if options.png is not None:
        from benchmarks.suite import draw

        save_figure("--png", options.png, draw.tasks(written))
        aggregate = draw.aggregate(written)
        if aggregate is not None:
            beside = options.png.with_stem(f"{options.png.stem}-aggregate")
            save_figure("--png", beside, aggregate)
    return 0


def _own(options: argparse.Namespace) -> Path:
    """Where the results go, and where those of earlier starts are."""
    return options.json or options.folder / "suite.json"


def _check_kept(suite: Suite, options: argparse.Namespace) -> None:
    """Refuse to write over results that would not be in the new file.

    Raises:
        UserError: naming the first of them.
    """
    path = _own(options)
    earlier = results.read_results(path, quick=options.quick)
    refused = results.merge(suite, [], earlier).refused
    if refused:
        raise UserError(
            f"--json {path}: holds {len(refused)} runs that are not those of the suite "
            f"({refused[0]}); allowed: another file (--known reads this one)"
        )


def _known(options: argparse.Namespace) -> list[results.Run]:
    """Runs that were published before; of one run the last file's counts."""
    known: dict[Cell, results.Run] = {}
    for path in [*options.known, _own(options)]:
        if path in options.known and not path.exists():
            raise UserError(f"--known {path}: no such file")
        for run in results.read_results(path, quick=options.quick):
            known[results.cell_of(run)] = run
    return list(known.values())


def _jobs(options: argparse.Namespace, platform: str) -> int:
    if options.jobs is not None:
        return options.jobs
    return 1 if platform == "gpu" else usable_cores()


def default_backend() -> str:
    """What JAX runs on, asked of another process: in this one it would take a GPU's
    memory, which the runs need."""
    command = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise UserError(f"JAX does not start: {last[0]}")
    return done.stdout.split()[-1]


def _parser(program: str) -> Parser:
    known = ", ".join(sorted(path.stem for path in FILES.glob("*.toml")))
    parser = Parser(
        program,
        description="Make many runs of train.main, and the statistics over their "
        "seeds. Start it as often as you like, also side by side.",
    )
    parser.add_argument(
        "name", metavar="NAME|FILE.toml", help=f"one of {known}; or a file of your own"
    )
    parser.add_argument(
        "--folder", type=Path, required=True, metavar="DIR", help="where the runs go"
    )
    parser.add_argument(
        "--status", action="store_true", help="say how far the runs are; start none"
    )
    parser.add_argument(
        "--aggregate-only", action="store_true", help="results of what is there"
    )
    parser.add_argument(
        "--jobs",
        type=count,
        metavar="N",
        help="runs side by side; by default one for each core, and one on a GPU",
    )
    parser.add_argument(
        "--known",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="results of other machines: their runs count as done; those in --json do",
    )
    parser.add_outputs(
        quick="try every task and arm: one seed, 400 steps of the smoke preset"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
