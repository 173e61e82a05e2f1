"""Learning curves of one or more runs: return against steps and against time.

    python -m benchmarks.curves RUN_DIR [RUN_DIR ...] [--metric NAME] [--png OUT]

Reads each run's `metrics.jsonl` and `timing.jsonl`; the run may still be active. Prints
a table with the first, last and largest values. In the plot the solid line is the mean
return of evaluation episodes, the faint line the return of training episodes. Runs that
differ only in their seed, and the agents of a run with `--seeds`, are averaged into one
curve with a band of one standard deviation.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.cli import Parser, command, save_figure
from benchmarks.curves.arms import read_curves
from benchmarks.curves.draw import QUICK_POINTS, draw, table
from train.errors import UserError
from train.run_dir.provenance import write_result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return command(_parser(), _run, argv)


def _run(options: argparse.Namespace) -> None:
    metric = options.metric or "return"
    curves = read_curves(options.run_dirs, metric=options.metric, each=options.each)
    if options.json is not None:
        result = {
            "metric": metric,
            "random_return": options.random,
            "curves": [asdict(curve) for curve in curves],
        }
        try:
            write_result(options.json, result, with_device=False)
        except OSError as error:
            raise UserError(
                f"--json {options.json}: cannot be written ({error})"
            ) from None
    print(table(curves, metric=metric))
    if options.json is not None:
        print(f"wrote {options.json}")
    if options.png is not None:
        figure = draw(
            curves, metric=metric, random_return=options.random, quick=options.quick
        )
        save_figure("--png", options.png, figure)


def _parser() -> Parser:
    parser = Parser(
        "curves",
        description="Show the learning curves of one or more runs: a table, and with "
        "--png a plot. Runs that differ only in their seed are one curve: their mean "
        "and standard deviation.",
    )
    parser.add_argument(
        "run_dirs",
        nargs="+",
        type=Path,
        metavar="RUN_DIR",
        help="a run directory, or that of one agent of a run with --seeds",
    )
    parser.add_argument(
        "--metric",
        metavar="NAME",
        help="a name in metrics.jsonl, such as train/penalty/posterior (default: the "
        "return)",
    )
    parser.add_argument(
        "--each", action="store_true", help="one curve per agent, without averaging"
    )
    parser.add_argument("--png", type=Path, metavar="OUT", help="plot to this file")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the data here")
    parser.add_argument(
        "--random",
        type=float,
        metavar="VALUE",
        help="draw a line at the random policy's return",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"a coarse plot: at most {QUICK_POINTS} points per line, low resolution",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
