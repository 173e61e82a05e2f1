"""A report about runs: one HTML page that needs no other file and no network.

    python -m benchmarks.report RUN_DIR [RUN_DIR ...] [--html report.html]

Learning curves, final returns with intervals, differences between the configurations,
speed, films, machines and versions. Reads the files of the runs only; a run may still
be active. Runs that differ only in their seed are one configuration.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.cli import Parser, command, publish
from benchmarks.report.read import check, read_arms, read_runs, with_returns
from benchmarks.report.sections import draw_all, make_page, score_text


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, 2 for a user error."""
    return command(_parser(), _run, argv)


def _parser() -> Parser:
    parser = Parser("report", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "run_dirs",
        nargs="+",
        type=Path,
        metavar="RUN_DIR",
        help="a run directory",
    )
    parser.add_outputs(quick="coarse plots", html=True)
    parser.set_defaults(html=Path("report.html"))
    return parser


def _run(options: argparse.Namespace) -> None:
    run_dirs, young = with_returns(check(options.run_dirs))
    for error in young:
        print(f"warning: left out, {error}", file=sys.stderr)
    arms, runs = read_arms(run_dirs), read_runs(run_dirs)
    result = {
        "arms": [
            {
                "label": arm.label,
                "task": arm.task,
                "settings": arm.settings,
                "evaluated": arm.evaluated,
                "final": arm.final._asdict(),
                "agents": [agent._asdict() for agent in arm.agents],
                "curve": asdict(arm.curve),
            }
            for arm in arms
        ],
        "runs": [run._asdict() for run in runs],
    }
    publish(
        options,
        result,
        score_text(arms),
        lambda: draw_all(arms, quick=options.quick),
        page=lambda: make_page(arms, runs, quick=options.quick),
        with_device=False,
    )


if __name__ == "__main__":
    sys.exit(main())
