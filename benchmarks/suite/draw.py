"""A suite's pictures: learning curves by task, and over all tasks."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from benchmarks.suite import statistics
from benchmarks.suite.report import seeds, tasks_in_words
from benchmarks.suite.summary import by_task, curve_at

_POINTS = 60
_INTERVAL = "bands: 95 % bootstrap intervals over seeds"


def tasks(result: Mapping[str, Any]) -> Figure:
    """As GPLD's Figure 6: a panel for each task, a line for each arm.

    The line is the mean over seeds of the evaluation return, the band its bootstrap
    interval; faint lines are the seeds.
    """
    shown = result["tasks"]
    columns = min(len(shown), 2 if len(shown) <= 4 else 4)
    rows = -(-len(shown) // columns)
    figure = Figure(
        figsize=(1 + 4.2 * columns, 1.1 + 2.9 * rows), dpi=130, layout="constrained"
    )
    panels = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    for axes, task in zip(panels, shown, strict=False):
        counts = []
        for index, arm in enumerate(result["arms"]):
            runs = list(by_task(result["runs"], arm).get(task, {}).values())
            counts.append(len(runs))
            if runs:
                _curve(axes, runs, f"C{index}", arm)
        low, high = min(counts), max(counts)
        many = f"{low}" if low == high else f"{low}–{high}"
        axes.set_title(f"{task} ({many} seed{'s' * (high != 1)})", fontsize="medium")
        _finish(axes, "return")
        if not high:
            axes.set(xticks=[], yticks=[])
            axes.text(0.5, 0.5, "no runs yet", ha="center", transform=axes.transAxes)
    _legend(figure, panels)
    _headline(figure, result)
    return figure


def _headline(figure: Figure, result: Mapping[str, Any]) -> None:
    text = f"{result['title']}: {seeds(result)}; {_INTERVAL}"
    wide = int(11 * figure.get_figwidth())  # characters
    figure.suptitle(textwrap.fill(text, wide), fontsize="medium")


def _curve(
    axes: Axes, runs: Sequence[Mapping[str, Any]], colour: str, label: str
) -> None:
    first = min(run["curve"]["steps"][0] for run in runs)
    last = max(run["curve"]["steps"][-1] for run in runs)
    steps = np.linspace(first, last, _POINTS)
    values = np.stack([curve_at(run, steps) for run in runs])
    points = statistics.efficiency_curve(statistics.mean, [values])
    _band(axes, steps, points, colour, label)
    for run in runs:
        axes.plot(
            run["curve"]["steps"],
            run["curve"]["returns"],
            color=colour,
            alpha=0.25,
            linewidth=0.7,
        )


def _band(
    axes: Axes,
    steps: Sequence[float] | np.ndarray,
    points: Sequence[Any],
    colour: str,
    label: str,
) -> None:
    """A line and its interval; where there is no value, a gap."""
    nothing = (np.nan, np.nan, np.nan)
    filled = [nothing if point is None else point for point in points]
    # Of one seed there is no interval.
    value, low, high = np.array(
        [[v, v if low is None else low, v if h is None else h] for v, low, h in filled],
        dtype=float,
    ).T
    axes.plot(steps, value, color=colour, linewidth=1.8, label=label)
    axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)


def aggregate(result: Mapping[str, Any]) -> Figure | None:
    """As GPLD's Figure 2 (raw and normalized aggregate curves), with the profile of
    final returns and the probability of improvement; None without aggregates."""
    found = result["aggregates"]
    if not found["tasks"]:
        return None
    figure = Figure(figsize=(11, 7.6), dpi=130, layout="constrained")
    raw, normalized, profile, improved = figure.subplots(2, 2).ravel()
    curves = found["efficiency"]
    panels = {
        "raw": (raw, "IQM of return / 1000", "iqm"),
        "normalized": (
            normalized,
            f"mean of return / final return of {result['baseline']}",
            "mean",
        ),
    }
    for scale, (axes, name, statistic) in panels.items():
        many = f"{tasks_in_words(found['tasks'])}, {seeds(result)}"
        axes.set_title(f"{name}\n{many}", fontsize="medium")
        for index, arm in enumerate(result["arms"]):
            if scale in curves:
                points = curves[scale][arm][statistic]
                _band(axes, curves["steps"], points, f"C{index}", arm)
        _finish(axes, name.partition(",")[0])
    thresholds = found["profiles"]["thresholds"]
    for index, arm in enumerate(result["arms"]):
        points = found["profiles"]["arms"][arm]
        _band(profile, thresholds, points, f"C{index}", arm)
    profile.set_title(f"Performance profile, {seeds(result)}", fontsize="medium")
    profile.set_xlabel("final return / 1000")
    profile.set_ylabel("share of runs above")
    profile.grid(alpha=0.3)
    _improvement(improved, result)
    _legend(figure, [raw])
    _headline(figure, result)
    return figure


def _improvement(axes: Axes, result: Mapping[str, Any]) -> None:
    """A point and its interval for each arm, against the baseline."""
    found = result["aggregates"].get("improvement", {})
    labels: list[str] = []
    for index, arm in enumerate(result["arms"]):
        for key, words in (("unpaired", "any seeds"), ("paired", "same seed")):
            estimate = found.get(arm, {}).get(key)
            if estimate is None:
                continue
            value, low, high = estimate
            height = -len(labels)
            if low is not None and high is not None:
                axes.plot([low, high], [height] * 2, color=f"C{index}", linewidth=5)
            axes.plot(value, height, "o", color="black", markersize=4)
            labels.append(f"{arm}, {words}")
    axes.axvline(0.5, color="0.4", linestyle="--")
    axes.set_yticks([-i for i in range(len(labels))], labels)
    axes.set_ylim(-len(labels) + 0.4, 0.6)
    axes.set_xlim(-0.03, 1.03)
    axes.set_title(
        f"P(final return above {result['baseline']}'s), {seeds(result)}",
        fontsize="medium",
    )
    axes.grid(alpha=0.3, axis="x")


def _finish(axes: Axes, vertical: str) -> None:
    axes.set_xlabel("environment steps")
    axes.set_ylabel(vertical)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.3)


def _legend(figure: Figure, panels: Sequence[Axes] | np.ndarray) -> None:
    """One for all panels, with every arm that some panel has."""
    entries: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    if entries:
        figure.legend(
            entries.values(),
            entries.keys(),
            loc="outside lower center",
            ncols=len(entries),
        )
