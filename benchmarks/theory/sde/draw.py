"""The plot of the SDE study."""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.theory.sde.cnn import Sizes
from benchmarks.theory.sde.errors import Finding
from benchmarks.theory.sde.errors_flow import RARE
from benchmarks.theory.sde.systems import Outcome
from core.theory.flow import FlowBound


class Results(NamedTuple):
    """All results of the study."""

    outcomes: dict[str, Outcome]
    found: list[Finding]
    distances: dict[str, Any]
    flows: list[FlowBound]
    sizes: list[Sizes]


_COLOURS = {"corrected": "C0", "½ missing": "C1", "as printed": "C3"}
_MARKERS = "osD^v"


def draw(figure: Figure | SubFigure, results: Results) -> None:
    """The expansion's remainder, Theorem 4.1, inequality (18), Theorem A.6."""
    panels = figure.subplots(1, 4)
    _remainders(panels[0], results.outcomes)
    _distances(panels[1], results.distances)
    _flows(panels[2], results.flows)
    _networks(panels[3], results.sizes)
    for axes in panels:
        axes.grid(alpha=0.3, which="major")
        axes.tick_params(labelsize="small")
        axes.title.set_fontsize("small")


def _remainders(axes: Axes, outcomes: dict[str, Outcome]) -> None:
    """Remainders in units of the ε² term, so that all systems fit in one panel."""
    for marker, one in zip(_MARKERS, outcomes.values(), strict=True):
        # All three forms are divided by the correct ε² term.
        unit = np.abs(one.checks["corrected"].second_order)
        for kind, check in one.checks.items():
            clear = check.resolved
            axes.loglog(
                check.eps[clear],
                (np.abs(check.remainder) / unit)[clear],
                color=_COLOURS[kind],
                marker=marker,
                markersize=3,
                linewidth=0.8,
            )
    axes.axhline(0.25, color="0.4", linewidth=1, linestyle=":")
    axes.text(0.003, 0.15, "valid below", fontsize="xx-small", color="0.3", va="top")
    handles = []
    for kind, colour in _COLOURS.items():
        slopes = [one.checks[kind].slopes[0] for one in outcomes.values()]
        middle = float(np.median(slopes))
        label = f"{kind}: remainder ∝ ε^{middle:.1f}"
        handles.append(Line2D([], [], color=colour, label=label))
    for marker, name in zip(_MARKERS, outcomes, strict=True):
        handles.append(
            Line2D([], [], color="0.4", marker=marker, ls="", markersize=4, label=name)
        )
    axes.set_ylim(1e-6, None)  # room for the legend
    axes.legend(handles=handles, fontsize="xx-small", loc="lower right")
    axes.set_xlabel("ε")
    axes.set_title("|remainder| / ε² term of E L")


def _distances(axes: Axes, found: dict[str, Any]) -> None:
    delta = np.array(found["delta"])
    axes.loglog(
        delta,
        found["gaussian"],
        "C0o-",
        markersize=4,
        label=f"small, every path: slope {found['slope']:.2f}",
    )
    axes.loglog(
        delta,
        found["rare"],
        "C3^:",
        markersize=4,
        label=f"length 1, rare: slope {found['slope_rare']:.2f}",
    )
    axes.loglog(
        delta, found["bound"], "C0--", linewidth=1, label="our bound on the first"
    )
    axes.set_xlabel("δ = E‖ε‖")
    axes.set_title("Theorem 4.1: E sup‖x^ε − x⁰‖²")
    axes.legend(fontsize="xx-small", loc="lower right")


def _flows(axes: Axes, flows: list[FlowBound]) -> None:
    axes.semilogy(
        RARE, [f.realized.mean for f in flows], "C0o-", markersize=4, label="E‖Φ‖²"
    )
    axes.semilogy(RARE, [f.bound for f in flows], "C0--", label="corrected bound")
    for constant, line in ((1.0, ":"), (2.0, "-."), (4.0, "--")):
        values = [f.printed(constant) for f in flows]
        axes.semilogy(RARE, values, f"C3{line}", label=f"printed, C = {constant:g}")
    axes.set_xlabel("slope s of the drift on a fraction 1/s² of paths")
    axes.set_title("(18): E‖Φ‖² for E‖∂g‖² = 1")
    axes.legend(fontsize="xx-small", loc="upper left")


def _networks(axes: Axes, sizes: list[Sizes]) -> None:
    counts = [size.parameters for size in sizes]
    colours = {"encoder": "C0", "decoder": "C1", "round_trip": "C2"}
    for what, colour in colours.items():
        best = [min(getattr(size, what)) for size in sizes]
        axes.loglog(
            counts, best, f"{colour}o-", markersize=4, label=what.replace("_", " ")
        )
        for size in sizes:
            seeds = getattr(size, what)
            axes.plot([size.parameters] * len(seeds), seeds, f"{colour}.", alpha=0.3)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("parameters")
    axes.set_title("Theorem A.6: error of small CNNs")
    axes.legend(fontsize="xx-small")
