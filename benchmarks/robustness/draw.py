"""The paper's Figure 1 for the agents at hand, and the surface against the norms."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.robustness.correlate import Correlation
from benchmarks.robustness.report import (
    LEVELS,
    Result,
    cells,
    domain,
    kept_returns,
    paper,
)
from benchmarks.robustness.surface import singles


def draw(result: Result) -> Figure:
    """A panel for each kind (return by strength); of the surface what one change alone
    does, and a panel for each Jacobian norm."""
    norms = list(result["surface"]["norms"]) if result["surface"] else []
    count = len(result["kinds"]) + len(norms) + bool(norms)
    columns = 2 if count == 4 else min(3, count)
    rows = -(-count // columns)
    figure = Figure(
        figsize=(1 + 4.2 * columns, 0.6 + 3.1 * rows), dpi=130, layout="constrained"
    )
    panels = list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
    shown = cells(result)
    for kind in result["kinds"]:
        _levels(panels.pop(0), result, kind, shown)
    if norms:
        _singles(panels.pop(0), result)
    for name in norms:
        _norm(panels.pop(0), result, name)
    for axes in panels:
        axes.set_visible(False)
    # One legend, as the arms are the same in all panels and their names are long.
    drawn: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            drawn.setdefault(label.removeprefix(f"{result['task']}, "), handle)
    figure.legend(
        list(drawn.values()), list(drawn), loc="outside lower center", fontsize="small"
    )
    title = f"{result['task']} from {result['obs']}"
    if result["kinds"]:
        title += (
            "; bands: one standard deviation over agents and "
            f"{result['episodes']} episodes of each"
        )
    figure.suptitle(title, fontsize="medium")
    return figure


def _levels(axes: Axes, result: Result, kind: Any, shown: Any) -> None:
    places = np.arange(len(kind["keys"]))
    for index, arm in enumerate(result["arms"]):
        means, deviations = np.array([shown[arm][key] for key in kind["keys"]]).T
        axes.plot(places, means, f"C{index}", marker="o", markersize=3, label=arm)
        low, high = means - deviations, means + deviations
        axes.fill_between(places, low, high, color=f"C{index}", alpha=0.2)
    table = LEVELS.get((domain(result) or "", kind["name"]))
    if table:
        theirs = np.array(paper()[table]["rows"])
        theirs = np.array([row for row in theirs if row[0] in kind["levels"]])
        at = [kind["levels"].index(level) for level in theirs[:, 0]]
        axes.plot(at, theirs[:, 1], "k--", lw=1, label="paper, with Jac.")
        axes.plot(at, theirs[:, 3], "k:", lw=1, label="paper, baseline")
    labels = [key.rpartition(":")[2] for key in kind["keys"]]
    axes.set_xticks(places, labels, fontsize="x-small", rotation=60)
    axes.set(xlabel=kind["name"], ylabel="return")
    axes.grid(alpha=0.3)


def _singles(axes: Axes, result: Result) -> None:
    """A point for each last agent, a bar at the mean of each arm."""
    kept = kept_returns(result)
    names = list(singles(result["surface"]))
    places = np.arange(len(names))
    width = 0.8 / len(result["arms"])
    for index, arm in enumerate(result["arms"]):
        at = places + (index + 0.5) * width - 0.4
        shares = [kept[arm][name] for name in names]
        means = [100 * np.mean(row) if row else np.nan for row in shares]
        axes.bar(at, means, width, color=f"C{index}", alpha=0.4, label=arm)
        for x, row in zip(at, shares, strict=True):
            axes.plot([x] * len(row), 100 * np.array(row), f"C{index}.", markersize=4)
    axes.axhline(100, color="0.5", lw=0.8)
    axes.set_xticks(places, names, fontsize="x-small", rotation=60)
    axes.set(ylabel="return kept, %")
    axes.set_title("one change alone; points: last agents", fontsize="small")
    axes.grid(alpha=0.3, axis="y")


def _norm(axes: Axes, result: Result, name: str) -> None:
    surface = result["surface"]
    drops = np.array([np.nan if x is None else x for x in surface["drop"]])
    for index, arm in enumerate(result["arms"]):
        mine = [i for i, who in enumerate(surface["agents"]) if who["arm"] == arm]
        norms = np.array(surface["norms"][name])[mine]
        steps = np.array([surface["agents"][i]["step"] for i in mine])
        sizes = 12 + 60 * steps / max(1, steps.max())
        axes.scatter(norms, 100 * drops[mine], sizes, f"C{index}", alpha=0.7, label=arm)
    found = surface["correlations"][name]["drop"]
    text = f"rank correlation {Correlation(**found)}" if found else "few agents"
    axes.set(xlabel=f"exact ‖J‖² of the {name}", ylabel="mean drop of the return, %")
    known = np.array(surface["norms"][name])
    if known.max() > 3 * known.min() > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(f"{text}; larger points: later agents", fontsize="small")
    axes.grid(alpha=0.3)
