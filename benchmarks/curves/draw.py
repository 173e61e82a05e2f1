"""Learning curves as a plot, against steps and against time, and as a table."""

import io
import textwrap
from collections.abc import Sequence

import rich.box
import rich.console
import rich.table
import rich.text
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.run_dir.curve import Curve, Series

QUICK_POINTS = 200
LONGEST_INSIDE, LONGEST_BELOW = 50, 120  # characters per line of the legend


def draw(
    curves: Sequence[Curve],
    *,
    metric: str = "return",
    random_return: float | None = None,
    quick: bool = False,
) -> Figure:
    """Plot the curves against environment steps and against wall-clock minutes.

    Args:
        curves: one line each, the same colour in both panels; a mean over agents has a
            band of one standard deviation.
        metric: label of the vertical axis.
        random_return: return of the random policy, drawn as a line unless None.
        quick: subsample long curves and use a low resolution.
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
    left.set_ylabel(metric)
    _add_legend(figure, left)
    return figure


def _add_legend(figure: Figure, left: Axes) -> None:
    """Put the legend inside the left panel if it fits, else below both panels."""
    handles, labels = left.get_legend_handles_labels()
    if len(labels) <= 6 and all(len(label) <= LONGEST_INSIDE for label in labels):
        left.legend(loc="best", fontsize="small")
        return
    wrapped = [textwrap.fill(label, LONGEST_BELOW) for label in labels]
    lines = sum(text.count("\n") + 1 for text in wrapped)
    figure.set_figheight(figure.get_figheight() + 0.2 * lines)
    figure.legend(handles, wrapped, loc="outside lower center", fontsize="small")


def _draw_curve(
    axes: Axes, curve: Curve, colour: str, *, against_steps: bool, quick: bool
) -> None:
    def points(series: Series, values: list[float]) -> tuple[list[float], list[float]]:
        x = list(series.steps if against_steps else series.minutes)
        stride = -(-len(x) // QUICK_POINTS) if quick and x else 1
        return x[::stride], values[::stride]

    # Matplotlib parses text between two $ as a formula.
    label = curve.label.replace("$", r"\$")
    main, faint = curve.evaluation, curve.episodes
    if faint.steps or not main.steps:
        axes.plot(
            *points(faint, faint.values),
            color=colour,
            alpha=0.35,
            linewidth=0.8,
            label=None if main.steps else f"{label} (training episodes)",
        )
    if main.steps:
        axes.plot(*points(main, main.values), color=colour, marker=".", label=label)
    banded = main if main.steps else faint
    if banded.spread:
        pairs = list(zip(banded.values, banded.spread, strict=True))
        x, low = points(banded, [mean - spread for mean, spread in pairs])
        _, high = points(banded, [mean + spread for mean, spread in pairs])
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


def table(curves: Sequence[Curve], *, metric: str = "return") -> str:
    """One row per curve: its first, last and largest value."""
    grid = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column(metric)
    for name in ("agents", "steps", "minutes", "first", "last", "largest", "at step"):
        grid.add_column(name, justify="right")
    for curve in curves:
        series, note = curve.evaluation, ""
        if not series.steps:
            series, note = curve.episodes, " (training episodes)"
        top = max(range(len(series.values)), key=series.values.__getitem__)
        grid.add_row(
            rich.text.Text(curve.label + note),
            str(len(curve.seeds) or 1),
            f"{series.steps[-1]:,}",
            f"{series.minutes[-1]:.1f}",
            _shown(series, 0),
            _shown(series, -1),
            _shown(series, top),
            f"{series.steps[top]:,}",
        )
    text = io.StringIO()
    # Wide enough that rich does not wrap: the terminal does, and a file keeps lines.
    rich.console.Console(file=text, width=500, highlight=False).print(grid)
    lines = [line.rstrip()[1:] for line in text.getvalue().splitlines()]
    return "\n".join(line for line in lines if line)


def _shown(series: Series, index: int) -> str:
    value = f"{series.values[index]:.4g}"
    # Where one agent alone has got so far, there is no spread to be known.
    several = bool(series.agents) and series.agents[index] > 1
    return f"{value} ± {series.spread[index]:.2g}" if several else value
