"""Follow runs in a terminal: `python -m train.watch runs/my-run runs/other`.

Reads the runs' files only; nothing of a run is changed, and JAX is not loaded.
"""

import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import plotext
import rich.box
import rich.console
import rich.live
import rich.table
import rich.text

from train.config import Count, cli
from train.config.fields import Range
from train.errors import UserError, guarded
from train.run_dir.curve import Curve, agents, read_config, read_curve, read_records
from train.run_dir.lock import is_locked

PROGRAM = "python -m train.watch"
DESCRIPTION = f"""Follow the learning curves of runs, in the terminal.

  {PROGRAM} runs/my-run
  {PROGRAM} runs/* --metric train/penalty/posterior
  {PROGRAM} runs/my-run --once

Without a directory, the runs in runs/ that were written to last. Ctrl-C ends it, and
the runs go on."""
RUNS = Path("runs")
COLORS = ("blue", "orange", "green", "red", "magenta", "cyan", "gray", "white")


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of this program."""

    metric: str = ""
    """A name in metrics.jsonl, such as train/loss/total. Default: the return."""
    every: Annotated[float, Range(0.2, 3600.0)] = 2.0
    """Seconds between two looks at the runs."""
    once: bool = False
    """Print the state once and end."""
    newest: Count = 4
    """How many runs are taken from runs/ if no directory is given."""


class Watched(NamedTuple):
    """One agent of a run, as its files have it now.

    Attributes:
        curve: None before the first value.
        step, total: environment steps taken, and those of the whole run.
        speed: environment steps a second, or None before the first record.
        active: a process trains it now.
        skipped: updates that were skipped as not finite.
    """

    name: str
    curve: Curve | None
    step: int
    total: int
    speed: float | None
    active: bool
    skipped: int

    @property
    def state(self) -> str:
        """`running`, `finished` or `stopped`, in a word."""
        if self.active:
            return "running"
        return "finished" if self.step >= self.total else "stopped"

    @property
    def left(self) -> str:
        """Time left at the present speed, as h:mm."""
        if not self.active or not self.speed:
            return ""
        minutes = round(max(self.total - self.step, 0) / self.speed / 60)
        return f"{minutes // 60}:{minutes % 60:02}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 a mistake in it."""
    words = sys.argv[1:] if argv is None else argv
    return guarded(lambda: run(words))


def run(argv: Sequence[str]) -> int:
    """Parse, then show the runs until all have ended, or Ctrl-C."""
    folders, options = read_options(argv)
    folders = folders or newest_runs(RUNS, options.newest)
    metric = options.metric or None
    watch = lambda: named([x for folder in folders for x in look(folder, metric)])
    console = rich.console.Console(highlight=False)
    found = watch()
    if options.once or not console.is_terminal:
        console.print(picture(found, metric, console.size))
        return 0
    try:
        with rich.live.Live(console=console, auto_refresh=False) as live:
            while True:
                live.update(picture(found, metric, console.size), refresh=True)
                if not any(seen.active for seen in found):
                    return 0
                time.sleep(options.every)
                found = watch()
    except KeyboardInterrupt:
        return 0  # how one leaves it


def newest_runs(folder: Path, count: int) -> list[Path]:
    """The runs in `folder` whose logs were written to last, oldest first.

    Raises:
        UserError: there is none.
    """
    runs = [path.parent for path in folder.glob("*/config.json")]
    if not runs:
        raise UserError(f"{folder}/: holds no run; allowed: directories of runs")
    return sorted(runs, key=_written)[-count:]


def _written(run_dir: Path) -> float:
    logs = [run_dir / "timing.jsonl", run_dir / "config.json"]
    return max(path.stat().st_mtime for path in logs if path.exists())


def look(run_dir: Path, metric: str | None = None) -> list[Watched]:
    """The agents of a run as its files have them now.

    Raises:
        UserError: this is not the directory of a run, or a file is damaged.
    """
    folders = agents(run_dir)
    config = read_config(run_dir)
    timing = run_dir / "timing.jsonl"
    ticks = read_records(timing) if timing.is_file() else []
    last = ticks[-1] if ticks else {}
    found = []
    for folder in folders:
        log = folder / "metrics.jsonl"
        records = read_records(log) if log.is_file() else []
        values = {key: x for record in records for key, x in record.items()}
        try:
            curve = read_curve(folder, metric)
        except UserError:
            if metric and metric not in values and values:
                raise  # the message names what there is
            curve = None
        found.append(
            Watched(
                str(folder),
                curve,
                int(values.get("step") or 0),
                int(config.get("steps") or 0),
                last.get("time/steps_per_second"),
                is_locked(run_dir / "lock"),
                int(values.get("train/skipped_updates") or 0),
            )
        )
    return found


def named(found: Sequence[Watched]) -> list[Watched]:
    """The same, each called by the part of its path in which it differs."""
    paths = [Path(seen.name).resolve() for seen in found]
    same = os.path.commonpath([path.parent for path in paths])
    names = [str(path.relative_to(same)) for path in paths]
    return [x._replace(name=name) for x, name in zip(found, names, strict=True)]


def picture(
    found: Sequence[Watched], metric: str | None, size: tuple[int, int]
) -> rich.console.Group:
    """Curves above a table with a row for each agent."""
    width, height = size
    parts = []
    curves = [(seen.name, seen.curve) for seen in found if seen.curve]
    if curves:
        rows = max(8, min(24, height - len(found) - 6))
        text = draw(curves, metric, min(width, 110), rows)
        parts.append(rich.text.Text.from_ansi(text))
    return rich.console.Group(*parts, table(found, metric))


def draw(
    curves: Sequence[tuple[str, Curve]], metric: str | None, width: int, height: int
) -> str:
    """The curves in characters: evaluations, or training episodes before the first."""
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plot_size(width, height)
    for index, (name, curve) in enumerate(curves):
        series = curve.evaluation if curve.evaluation.steps else curve.episodes
        plotext.plot(
            series.steps,
            series.values,
            label=name,
            color=COLORS[index % len(COLORS)],
            marker="braille" if _unicode() else "*",
        )
    plotext.title(metric or "return")
    plotext.xlabel("environment steps")
    return plotext.build()


def table(found: Sequence[Watched], metric: str | None) -> rich.table.Table:
    """One row for each agent."""
    box = rich.box.SIMPLE if _unicode() else rich.box.ASCII
    rows = rich.table.Table(box=box, pad_edge=False)
    rows.add_column("run", overflow="fold")
    rows.add_column("")
    for name in ("steps", "of", "steps/s", "left", metric or "return", "best"):
        rows.add_column(name, justify="right")
    for seen in found:
        values = _values(seen.curve)
        state = seen.state
        if seen.skipped:
            state += f", {seen.skipped:,} skipped updates"
        rows.add_row(
            rich.text.Text(seen.name),
            state,
            f"{seen.step:,}",
            f"{seen.total:,}",
            f"{seen.speed:,.0f}" if seen.speed else "",
            seen.left,
            f"{values[-1]:.4g}" if values else "",
            f"{max(values):.4g}" if values else "",
        )
    return rows


def _values(curve: Curve | None) -> list[float]:
    if curve is None:
        return []
    return curve.evaluation.values or curve.episodes.values


def _unicode() -> bool:
    return "utf" in (getattr(sys.stdout, "encoding", None) or "").lower()


def read_options(argv: Sequence[str]) -> tuple[list[Path], Options]:
    """The directories, which come first, and the options.

    Raises:
        UserError: the command line is not understood or not allowed.
        SystemExit: with code 0, after printing the help that was asked for.
    """
    flags = [index for index, word in enumerate(argv) if word.startswith("-")]
    first = flags[0] if flags else len(argv)
    options = cli.read_options(
        argv[first:], Options, program=PROGRAM, description=DESCRIPTION
    )
    return [Path(word).expanduser() for word in argv[:first]], options


if __name__ == "__main__":
    sys.exit(main())
