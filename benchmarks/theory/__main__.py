"""The papers' theoretical experiments, from the terminal.

    python -m benchmarks.theory STUDY [--quick] [--json OUT] [--png OUT]

STUDY is a key of `STUDIES`, or `all`. `all --quick` takes less than ten minutes on two
idle cores.
"""

import argparse
import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.cli import Parser, command, count, publish, save_rows
from benchmarks.theory.study import Study
from train.errors import UserError

STUDIES = {
    "bound": "Lemma 1 and Proposition 1: tightness (Section 3.1)",
    "scaling": "scaling laws of dynamics and reward errors (Section 4.1)",
    "allocation": "the optimal split of a budget, equation 4 (Section 4.2)",
    "noise": "REINFORCE with noisy and biased rewards (Section 5)",
    "sde": "the expansion, bounds and errors of the SDE paper",
    "tabular": "finite-difference smoothing in tabular MDPs (GPLD, section 3)",
}
"""Subpackages with a function `run`, in the order of `all`."""

TAKES = {
    "seeds": ("scaling",),
    "init": ("scaling",),
    "sampling": ("scaling",),
    "run": ("noise",),
}
"""Studies that take an option of `run` as a flag."""

CSV = ("allocation",)
"""Studies with a table of their configurations."""

_LEAST_SECONDS = 5.0  # between two progress lines


class Reporter:
    """Print the progress of one study, at most one line every few seconds."""

    def __init__(self, label: str, *, start: float):
        """`label` names the study; `start` is the program's first `perf_counter()`."""
        self._label, self._start = label, start
        self._begun = self._last = time.perf_counter()

    def __call__(self, done: float) -> None:
        """Report the completed fraction."""
        now = time.perf_counter()
        if done <= 0 or (now - self._last < _LEAST_SECONDS and done < 1):
            return
        self._last = now
        left = (now - self._begun) * (1 - done) / done
        self.say(f"{100 * done:3.0f} %, {left:.0f} s left")

    def say(self, text: str) -> None:
        """Print a line with the seconds since the program's start."""
        seconds = time.perf_counter() - self._start
        print(f"[{seconds:4.0f} s] {self._label}: {text}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return command(_parser(), run, argv)


def run(options: argparse.Namespace) -> None:
    """Run the studies and publish their results."""
    names = list(STUDIES) if options.study == "all" else [options.study]
    flags = {flag: getattr(options, flag) for flag in (*TAKES, "csv")}
    for flag, takers in {**TAKES, "csv": CSV}.items():
        if flags[flag] is not None and not set(takers) & set(names):
            raise UserError(
                f"--{flag}: {options.study} does not take it; allowed: with "
                f"{', '.join(takers)}"
            )
    start = time.perf_counter()
    found: dict[str, Study] = {}
    seconds: dict[str, float] = {}
    for index, name in enumerate(names, start=1):
        label = f"{name} ({index} of {len(names)})" if len(names) > 1 else name
        report = Reporter(label, start=start)
        report.say(STUDIES[name])
        begun = time.perf_counter()
        given = {
            flag: flags[flag]
            for flag, takers in TAKES.items()
            if name in takers and flags[flag] is not None
        }
        run_study = load(name).run
        found[name] = run_study(quick=options.quick, progress=report, **given)
        seconds[name] = time.perf_counter() - begun
        report.say("done")
    result = {
        "studies": {
            name: {"seconds": round(seconds[name], 1), **study.entries}
            for name, study in found.items()
        },
    }
    text = "\n\n".join(study.tables for study in found.values())
    publish(options, result, f"\n{text}\n", lambda: draw(found))
    if options.csv is not None:
        rows = [
            {"study": name, **row}
            for name, study in found.items()
            for row in study.configurations
        ]
        save_rows("--csv", options.csv, rows)


def load(name: str) -> Any:
    """Import the module of a study, without the other studies."""
    return importlib.import_module(f"benchmarks.theory.{name}.study")


def draw(found: dict[str, Study]) -> Figure:
    """One row of panels per study."""
    figure = Figure(figsize=(11, 4.2 * len(found)), dpi=120, layout="constrained")
    rows = figure.subfigures(len(found), 1, squeeze=False, hspace=0.04)
    for row, (name, study) in zip(rows[:, 0], found.items(), strict=True):
        if len(found) > 1:
            row.suptitle(name, x=0.01, ha="left", fontweight="bold")
        study.draw(row)
    return figure


def _parser() -> Parser:
    studies = "\n".join(f"  {name:12}{purpose}" for name, purpose in STUDIES.items())
    parser = Parser(
        "theory",
        description="The papers' theoretical experiments.",
        epilog=f"studies:\n{studies}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", choices=(*STUDIES, "all"), metavar="STUDY")
    parser.add_argument(
        "--seeds",
        type=count,
        help="scaling: students for each size of the training set (default 3, quick 2; "
        "the paper has 100, which takes hours on two cores)",
    )
    parser.add_argument(
        "--init",
        choices=("torch", "lecun"),
        help="scaling: initialization of the students (default torch, as in the paper)",
    )
    parser.add_argument(
        "--sampling",
        choices=("policy", "uniform"),
        help="scaling: transitions of the reference policy (default, as in the paper), "
        "or of uniform states and actions",
    )
    parser.add_argument(
        "--run",
        type=Path,
        metavar="RUN_DIR",
        help="noise: a trained run, to measure Theorem 2's terms for its policy",
    )
    parser.add_argument(
        "--csv",
        type=Path,
        metavar="OUT",
        help="allocation: a row for each configuration",
    )
    parser.add_outputs(quick="small sizes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
