"""The papers' theoretical experiments, from the terminal.

    python -m benchmarks.theory STUDY [--quick] [--json OUT] [--png OUT]

STUDY is one of the names below, or `all`. `all --quick` takes under ten minutes on two
quiet cores.
"""

import argparse
import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.theory.study import Study
from train.provenance import write_result

STUDIES = {
    "bound": "Lemma 1 and Proposition 1: how loose (Section 3.1)",
    "scaling": "how fast dynamics and reward are learned (Section 4.1)",
    "allocation": "the best split of a budget, equation 4 (Section 4.2)",
    "noise": "learning from noisy and biased rewards (Section 5)",
    "sde": "the expansion, bounds and errors of the SDE paper",
    "tabular": "finite-difference smoothing in tabular worlds (GPLD, section 3)",
}
"""Modules of this package with a function `run`, in the order of `all`."""

_LEAST_SECONDS = 5.0  # between two lines of progress


class Reporter:
    """Prints the progress of one study: a line at most every few seconds."""

    def __init__(self, label: str, *, start: float):
        """Args: what to call the study; `time.perf_counter()` at the very start."""
        self._label, self._start = label, start
        self._begun = self._last = time.perf_counter()

    def __call__(self, done: float) -> None:
        """Takes the fraction that is done."""
        now = time.perf_counter()
        if done <= 0 or (now - self._last < _LEAST_SECONDS and done < 1):
            return
        self._last = now
        left = (now - self._begun) * (1 - done) / done
        self.say(f"{100 * done:3.0f} %, {left:.0f} s left")

    def say(self, text: str) -> None:
        """Prints a line with the seconds since the program's start."""
        seconds = time.perf_counter() - self._start
        print(f"[{seconds:4.0f} s] {self._label}: {text}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 2 where a file cannot be written."""
    options = _parser().parse_args(argv)
    names = list(STUDIES) if options.study == "all" else [options.study]
    start = time.perf_counter()
    found: dict[str, Study] = {}
    seconds: dict[str, float] = {}
    for index, name in enumerate(names, start=1):
        label = f"{name} ({index} of {len(names)})" if len(names) > 1 else name
        report = Reporter(label, start=start)
        report.say(STUDIES[name])
        begun = time.perf_counter()
        found[name] = load(name).run(quick=options.quick, progress=report)
        seconds[name] = time.perf_counter() - begun
        print(f"\n{found[name].tables}\n", flush=True)
    what = "a check of the machinery" if options.quick else "a measurement"
    if options.quick:
        print("--quick: a check of the machinery, no measurement")
    try:
        if options.json is not None:
            result = {
                "what": what,
                "studies": {
                    name: {"seconds": round(seconds[name], 1), **study.entries}
                    for name, study in found.items()
                },
            }
            write_result(options.json, result)
            print(f"wrote {options.json}")
        if options.png is not None:
            options.png.parent.mkdir(parents=True, exist_ok=True)
            draw(found).savefig(options.png)
            print(f"drew {options.png}")
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def load(name: str) -> Any:
    """The module of a study; one asked for alone does not wait for the others."""
    return importlib.import_module(f"benchmarks.theory.{name}.study")


def draw(found: dict[str, Study]) -> Figure:
    """One row of panels for each study."""
    figure = Figure(figsize=(11, 4.2 * len(found)), dpi=120, layout="constrained")
    rows = figure.subfigures(len(found), 1, squeeze=False, hspace=0.04)
    for row, (name, study) in zip(rows[:, 0], found.items(), strict=True):
        if len(found) > 1:
            row.suptitle(name, x=0.01, ha="left", fontweight="bold")
        study.draw(row)
    return figure


def _parser() -> argparse.ArgumentParser:
    studies = "\n".join(f"  {name:12}{purpose}" for name, purpose in STUDIES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.theory",
        description="The papers' theoretical experiments.",
        epilog=f"studies:\n{studies}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", choices=(*STUDIES, "all"), metavar="STUDY")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--png", type=Path, metavar="OUT")
    return parser


if __name__ == "__main__":
    sys.exit(main())
