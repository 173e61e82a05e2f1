"""Learning curves of one or more runs: return against steps and against time.

    python -m benchmarks.curves RUN_DIR [RUN_DIR ...] --png OUT --json OUT

The curves are read from each run's `metrics.jsonl` and `timing.jsonl`, which may still
be growing. Steps are environment steps (control steps of the simulator), times are
minutes since the run began. The thick line is the mean return of the evaluation
episodes, the faint one the return of the training episodes.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.errors import UserError, one_line, printable
from train.provenance import write_result

EVALUATION_KEY = "eval/return_mean"
EPISODE_KEY = "episode/return"
TIME_KEY = "time/seconds"
_QUICK_POINTS = 200


@dataclass(frozen=True)
class Series:
    """One quantity of one run: `values[i]` was seen at `steps[i]` and `minutes[i]`."""

    steps: list[int]
    minutes: list[float]
    values: list[float]


@dataclass(frozen=True)
class Curve:
    """What one run learned, under the name the plot gives it."""

    label: str
    evaluation: Series
    episodes: Series


def read_curve(run_dir: Path) -> Curve:
    """Read a run directory: `metrics.jsonl`, and `config.json` for the label.

    Of a run with several seeds, give one agent's folder, `RUN_DIR/seed_0`.

    Raises `UserError` if a file is missing or broken, or holds no return at all.
    """
    if not run_dir.is_dir():
        raise UserError(f"RUN_DIR {run_dir}: no such directory; give that of a run")
    records = _read_records(run_dir / "metrics.jsonl")
    timing = _read_records(_beside(run_dir, "timing.jsonl"))
    curve = Curve(
        label=_label(run_dir),
        evaluation=_series(records, EVALUATION_KEY, timing),
        episodes=_series(records, EPISODE_KEY, timing),
    )
    if not curve.evaluation.steps and not curve.episodes.steps:
        raise UserError(
            f"RUN_DIR {run_dir}: metrics.jsonl holds neither {EVALUATION_KEY!r} nor "
            f"{EPISODE_KEY!r}; wait for the first episode to end"
        )
    return curve


def read_curves(run_dirs: Sequence[Path]) -> list[Curve]:
    """Read several run directories; labels that coincide get the folder's name too."""
    curves = [read_curve(run_dir) for run_dir in run_dirs]
    times = Counter(curve.label for curve in curves)
    return [
        replace(curve, label=f"{curve.label} ({_plain(run_dir.resolve().name)})")
        if times[curve.label] > 1
        else curve
        for curve, run_dir in zip(curves, run_dirs, strict=True)
    ]


def draw(
    curves: Sequence[Curve], *, random_return: float | None = None, quick: bool = False
) -> Figure:
    """Draw the curves twice, against environment steps and against minutes.

    **Arguments:**

    - `curves`: one line each, in one colour in both panels.
    - `random_return`: where to draw the random policy's return, if anywhere.
    - `quick`: thin out long curves and draw at low resolution.
    """
    figure = Figure(figsize=(11, 4.5), dpi=60 if quick else 150, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for index, curve in enumerate(curves):
        colour = f"C{index % 10}"
        _draw_curve(left, curve, colour, against_steps=True, quick=quick)
        _draw_curve(right, curve, colour, against_steps=False, quick=quick)
    for axes, name in ((left, "environment steps"), (right, "wall-clock minutes")):
        if random_return is not None:
            axes.axhline(
                random_return, color="0.4", linestyle="--", label="random policy"
            )
        axes.set_xlabel(name)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    left.set_ylabel("return")
    left.legend(loc="best", fontsize="small")
    return figure


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 2 for an error of the user's."""
    options = _parser().parse_args(argv)
    try:
        if options.png is None and options.json is None:
            raise UserError("--png, --json: neither is given; name at least one output")
        curves = read_curves(options.run_dirs)
        if options.png is not None:
            figure = draw(curves, random_return=options.random, quick=options.quick)
            options.png.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(options.png)
            print(f"drew {options.png}")
        if options.json is not None:
            result = {
                "random_return": options.random,
                "curves": [asdict(curve) for curve in curves],
            }
            write_result(options.json, result, with_device=False)
            print(f"wrote {options.json}")
    except (UserError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.curves",
        description="Draw the learning curves of one or more runs.",
    )
    parser.add_argument(
        "run_dirs",
        nargs="+",
        type=Path,
        metavar="RUN_DIR",
        help="the directory of a run, with its metrics.jsonl",
    )
    parser.add_argument("--png", type=Path, metavar="OUT", help="the picture to write")
    parser.add_argument("--json", type=Path, metavar="OUT", help="the data to write")
    parser.add_argument(
        "--random",
        type=float,
        metavar="VALUE",
        help="draw a line at the random policy's return",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"a coarse picture: at most {_QUICK_POINTS} points a line, low resolution",
    )
    return parser


def _read_records(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; is this the directory of a run?")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break  # a run that is being written now, or was killed while writing
            raise UserError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(record, dict):
            raise UserError(f"{path}, line {number}: got {line!r}, expected an object")
        wrong = [k for k, value in record.items() if not _is_number(value, key=k)]
        if wrong:
            raise UserError(
                f"{path}, line {number}: {wrong[0]} is {record[wrong[0]]!r}, "
                "expected a number"
            )
        records.append(record)
    return _without_replaced(records)


def _is_number(value: object, *, key: str) -> bool:
    """Or null, which the log has for infinity and NaN, but not as a step."""
    return isinstance(value, int | float) or (value is None and key != "step")


def _without_replaced(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    # A run resumed from a checkpoint writes the steps after it a second time. They are
    # the history of the agent that exists; those they replace are not.
    kept: list[dict[str, Any]] = []
    for record in records:
        while "step" in record and kept and kept[-1].get("step", 0) > record["step"]:
            kept.pop()
        kept.append(record)
    return kept


def _series(
    records: Iterable[dict[str, Any]], key: str, timing: Sequence[dict[str, Any]]
) -> Series:
    rows = [record for record in records if record.get(key) is not None]
    if any("step" not in row for row in rows):
        raise UserError(f"metrics.jsonl: a record has {key!r} but no 'step'")
    ticks = [row for row in timing if TIME_KEY in row]
    at = [row["step"] for row in ticks]
    clock = [row[TIME_KEY] / 60 for row in ticks]
    steps = [int(row["step"]) for row in rows]
    # The log's first line comes before the clock's: it takes the clock's first time.
    minutes = np.interp(steps, at, clock) if ticks and steps else steps
    return Series(
        steps=steps,
        minutes=[float(minute) for minute in minutes],
        values=[float(row[key]) for row in rows],
    )


def _beside(run_dir: Path, name: str) -> Path:
    """A file of the run: here, or one above the folder of one of several agents."""
    here = run_dir / name
    return here if here.is_file() else run_dir.resolve().parent / name


def _label(run_dir: Path) -> str:
    path = _beside(run_dir, "config.json")
    if not path.is_file():
        raise UserError(f"{path}: no such file; is this the directory of a run?")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        seed = config["seed"]
        if path.parent != run_dir and run_dir.name.startswith("seed_"):
            seed += int(run_dir.name.removeprefix("seed_"))
        return _plain(f"{config['env']}, seed {seed}")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no 'env' and 'seed' to be read there") from error


def _plain(text: str) -> str:
    """The text as Matplotlib shows it, which takes what is between $ for a formula."""
    return printable(text).replace("$", r"\$")


def _draw_curve(
    axes: Axes, curve: Curve, colour: str, *, against_steps: bool, quick: bool
) -> None:
    def points(series: Series) -> tuple[list[float], list[float]]:
        x = list(series.steps if against_steps else series.minutes)
        stride = -(-len(x) // _QUICK_POINTS) if quick and x else 1
        return x[::stride], series.values[::stride]

    evaluated = bool(curve.evaluation.steps)
    axes.plot(
        *points(curve.episodes),
        color=colour,
        alpha=0.35,
        linewidth=0.8,
        label=None if evaluated else f"{curve.label} (training episodes)",
    )
    if evaluated:
        axes.plot(
            *points(curve.evaluation), color=colour, marker=".", label=curve.label
        )


if __name__ == "__main__":
    sys.exit(main())
