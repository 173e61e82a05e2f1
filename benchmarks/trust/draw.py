"""The report's picture: one colour for each agent."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.trust.labels import label, strongest

PARTS = ("gap", "reward", "dynamics", "continuation", "value")


def draw(result: dict[str, Any]) -> Figure:
    """Six panels; bands and bars are 95 % intervals over episodes."""
    figure = Figure(figsize=(13, 7.5), dpi=120, layout="constrained")
    panels = figure.subplots(2, 3).ravel()
    steps, count = result["plan"]["steps"], len(result["agents"])
    first: dict[str, Any] = result["agents"][0]["summary"]
    names = [name for name, _ in strongest(first["where"])][:10][::-1]
    for index, agent in enumerate(result["agents"]):
        summary, colour = agent["summary"], f"C{index % 10}"
        rows = summary["horizons"]
        _band(panels[0], rows["observation"], colour, label(agent))
        horizon = np.arange(1, len(rows["known"]) + 1)
        panels[0].plot(horizon, rows["unchanged"]["mean"], ":", color=colour)
        error = np.sqrt(np.maximum(rows["return squared error"]["mean"], 0))
        panels[1].plot(horizon, error, color=colour)
        panels[1].plot(horizon, rows["return spread"], ":", color=colour)
        found = [np.nan if x is None else x for x in rows["return correlation"]]
        panels[2].plot(horizon, found, color=colour)
        if "attribution" in summary:
            means = [summary["attribution"]["mean"][part] for part in PARTS]
            _bars(panels[3], means, index, count, colour)
        squared = summary["value"]["squared error"]
        root = {key: np.sqrt(np.maximum(x, 0)) for key, x in squared.items()}
        _band(panels[4], root, colour, first=0)
        flat = summary["value"]["flat"]
        at = [float(root["mean"][h]) for h in flat]
        panels[4].plot(flat, at, "o", color=colour, markersize=3)
        if (trained := agent["imagination length"]) <= len(horizon):
            panels[4].axvline(trained, color=colour, linewidth=0.8)
        where = summary["where"]
        rho = [(where.get(name) or {}).get("return") or 0.0 for name in names]
        height = 0.8 / count
        places = np.arange(len(names)) + (index - (count - 1) / 2) * height
        panels[5].barh(places, rho, height, color=colour)
    titles = (
        "observation error (dotted: if unchanged)",
        "return error (dotted: spread)",
        "imagined and true returns: correlation",
        f"true less imagined return, {steps} steps",
        "value error (dots: as good as the best; line: trained)",
        "rank correlation with the return's error",
    )
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize="medium")
        axes.grid(alpha=0.3)
    for axes in panels[:3]:
        axes.axvline(steps, color="0.6", linewidth=0.8)
    for axes in (*panels[:3], panels[4]):
        axes.set_xlabel("imagined steps")
    panels[0].set_yscale("log")
    panels[0].legend(fontsize="x-small")
    panels[3].set_xticks(range(len(PARTS)), PARTS, fontsize="x-small")
    panels[3].axhline(0, color="0.4", linewidth=0.8)
    panels[5].set_yticks(range(len(names)), names, fontsize="small")
    panels[5].axvline(0, color="0.4", linewidth=0.8)
    return figure


def _band(
    axes: Axes, values: dict[str, Any], colour: str, label: str = "", *, first: int = 1
) -> None:
    horizon = np.arange(first, first + len(values["mean"]))
    axes.plot(horizon, values["mean"], color=colour, label=label)
    axes.fill_between(horizon, values["low"], values["high"], color=colour, alpha=0.2)


def _bars(axes: Axes, means: list[Any], index: int, count: int, colour: str) -> None:
    width = 0.8 / count
    places = np.arange(len(means)) + (index - (count - 1) / 2) * width
    height = np.array([each["mean"] for each in means])
    ends = [[each[end] for each in means] for end in ("low", "high")]
    errors = np.abs(np.array(ends) - height)
    axes.bar(places, height, width, yerr=errors, color=colour, capsize=3)
