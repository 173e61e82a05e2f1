"""Tightness of Lemma 1 (Section 3.1), and the two forms of Proposition 1.

R = |J - Ĵ| / bound for each configuration, with known constants and with ε the maxima
of the errors along the imagined rollout. `configurations` describes them.
"""

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure, SubFigure

from benchmarks.theory.bound.configurations import (
    CONTRACTIONS,
    DISCOUNTS,
    Configuration,
    lqg_configurations,
    synthetic_configurations,
)
from benchmarks.theory.study import Progress, Study
from core.theory.bounds import curvature_bound, simulation_bound

PAPER = {"synthetic": (0.0035, 0.9995), "lqg": (0.034, 0.999)}
"""The paper's median and largest R."""

FORMS: tuple[Literal["printed"], Literal["sharp"]] = ("printed", "sharp")

SLOPES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Lipschitz constants of the velocity map in the table of Proposition 1."""


def run(*, quick: bool, progress: Progress) -> Study:
    """Section 3.1: 150 synthetic and 375 linear-quadratic configurations.

    Args:
        quick: 75 of each group.
        progress: called with the completed fraction.
    """
    draws = {"synthetic": 2, "lqg": 15}
    if quick:
        draws = {"synthetic": 1, "lqg": 3}
    found = {"synthetic": synthetic_configurations(draws=draws["synthetic"])}
    progress(0.5)
    found["lqg"] = lqg_configurations(draws=draws["lqg"])
    progress(0.9)
    ratios = {
        (group, form): np.array([tightness(row, form=form) for row in rows])
        for group, rows in found.items()
        for form in ("joint", "split")
    }
    groups: dict[str, Any] = {}
    for (group, form), values in ratios.items():
        groups.setdefault(group, {"configurations": len(values)})[form] = {
            "median": float(np.median(values)),
            "max": float(np.max(values)),
            "violations": int(np.sum(values > 1 + 1e-9)),
            "ratios": np.sort(values).round(7).tolist(),
        }
    slopes = jnp.array(SLOPES)
    proposition = {
        form: np.asarray(curvature_bound(slopes, form=form), float).tolist()
        for form in FORMS
    }
    entries = {
        "what": "R = |J - J'| / bound of Lemma 1",
        "discounts": list(DISCOUNTS),
        "contractions": list(CONTRACTIONS),
        "groups": groups,
        "paper": {g: {"median": m, "max": x} for g, (m, x) in PAPER.items()},
        "proposition_1": {"slope": list(SLOPES), **proposition},
    }
    progress(1.0)
    return Study(_tables(entries), entries, lambda figure: _draw(figure, ratios))


def tightness(row: Configuration, *, form: str) -> float:
    """R of one configuration, with the paper's "joint" or with "split" constants."""
    constants = row.constants if form == "split" else row.constants.joined()
    return row.gap / simulation_bound(
        constants,
        discount=row.discount,
        dynamics_error=row.dynamics_error,
        reward_error=row.reward_error,
    )


def _tables(entries: dict[str, Any]) -> str:
    lines = [
        "Lemma 1: R = |J - Ĵ| / bound             constants   median R      max R"
        "   violations"
    ]
    for group, numbers in entries["groups"].items():
        name = f"{group}, {numbers['configurations']} configurations"
        for form in ("joint", "split"):
            n = numbers[form]
            lines.append(
                f"  {name:38} {form:9} {n['median']:10.4f} {n['max']:10.4f}"
                f" {n['violations']:12d}"
            )
            name = ""
        median, largest = PAPER[group]
        lines.append(f"  {'':38} {'paper':9} {median:10.4f} {largest:10.4f} {0:12d}")
    proposition = entries["proposition_1"]
    lines += ["", "Proposition 1: largest 1 - cos of two successive steps"]
    for name, key in (("L", "slope"), ("as printed", "printed"), ("sharp", "sharp")):
        lines.append(f"  {name:12}" + "".join(f"{x:9.4f}" for x in proposition[key]))
    return "\n".join(lines)


def _draw(
    figure: Figure | SubFigure, ratios: dict[tuple[str, str], np.ndarray]
) -> None:
    left, right = figure.subplots(1, 2)
    colours = {"synthetic": "C0", "lqg": "C1"}
    for (group, form), values in ratios.items():
        x = np.sort(np.maximum(values, 1e-6))
        left.step(
            x,
            np.arange(1, len(x) + 1) / len(x),
            where="post",
            color=colours[group],
            linestyle="-" if form == "joint" else "--",
            label=f"{group}, {form} constants",
        )
    for group, (median, _) in PAPER.items():
        left.plot(median, 0.5, "x", color=colours[group], label=f"{group}, paper")
    left.axvline(1.0, color="0.4", linewidth=1)
    left.set_xscale("log")
    left.set_xlim(1e-5, 2)
    left.set_xlabel("R = gap / bound of Lemma 1")
    left.set_ylabel("share of configurations")
    left.set_title("Lemma 1 is valid and loose")
    left.legend(fontsize="x-small", loc="upper left")
    slope = jnp.linspace(0, 0.99, 200)
    for form, style in zip(FORMS, (":", "-"), strict=True):
        right.plot(slope, curvature_bound(slope, form=form), style, label=form)
    right.axhline(2.0, color="0.4", linewidth=1)
    right.text(0.02, 2.05, "maximum of 1 - cos", fontsize="x-small")
    right.set_ylim(0, 3)
    right.set_xlabel("Lipschitz constant of the velocity map")
    right.set_ylabel("bound on 1 - cos")
    right.set_title("Proposition 1, printed and sharp")
    right.legend(fontsize="x-small", loc="center left")
    for panel in (left, right):
        panel.grid(alpha=0.3)
