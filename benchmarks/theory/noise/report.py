"""Results of `benchmarks.theory.noise` as text and plot."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure, SubFigure

from benchmarks.cli import QUICK
from benchmarks.measure.tables import text_table
from benchmarks.theory.noise.measure import (
    ACTIONS,
    BUDGET,
    COSTS,
    HORIZON,
    MODELS,
    NOISE,
    STATES,
    clean_and_gain,
    optimum,
    problem,
    total_variance,
)
from core.theory import reward_noise as rn

_TITLES = {"power": "power law", "bounded": "bounded", "floor": "noise floor"}
_MARKERS: dict[Literal["noise_only", "total"], str] = {"noise_only": "v", "total": "*"}


def tables(
    variance: Sequence[dict[str, Any]],
    fidelity: Sequence[dict[str, Any]],
    simulated: Sequence[dict[str, float]],
    bias: Sequence[dict[str, Any]],
    quick: bool,
) -> str:
    """All results as text."""
    lines = ["REINFORCE with noisy rewards (section 5)"]
    if quick:
        lines.append(f"--quick: {QUICK}")
    lines += [
        f"random MDP, {STATES} states, {ACTIONS} actions, H = {HORIZON}, σ = {NOISE:g}",
        "",
        "Theorem 2: variance added by the noise, one rollout",
        text_table(
            ["γ", "γ^t", "enumerated", "formula", "sampled", "paper bound"]
            + ["bound/formula", "error of mean"],
            [
                [
                    f"{row['discount']:g}",
                    "yes" if row["discounted"] else "no",
                    f"{row['extra_enumerated']:.4f}",
                    f"{row['extra_formula']:.4f}",
                    f"{row['extra_sampled']:.3f} ± {row['extra_sampled_error']:.3f}",
                    f"{row['paper_bound']:.1f}",
                    f"{row['paper_bound'] / row['extra_formula']:.0f}×",
                    f"{row['relative_bias']:.1%}",
                ]
                for row in variance
            ],
            left=0,
        ),
    ]
    lines += [
        "(error of mean: ‖E ĝ − ∇J_H‖ / ‖∇J_H‖)",
        "",
        f"Corollary 2: annotation cost per rollout, from {COSTS[0]:g} to "
        f"{COSTS[1]:g}, γ = 0.9",
        text_table(
            ["noise", "printed: c σ²(c)", "total: c(V₀+Mσ²(c))"]
            + ["variance, printed/best"],
            [_choices(row) for row in fidelity],
        ),
    ]
    worst = max(
        abs(row["sampled"] - row["exact"]) / row["sampled_error"] for row in simulated
    )
    lines += [
        "(if the printed objective is flat, the last column uses the highest cost)",
        f"simulation at {len(simulated)} costs of p = 2: largest deviation from the "
        f"formula {worst:.1f} standard errors",
        "",
        "Proposition 2: mean squared error of K rollouts, γ = 0.9",
        text_table(
            ["bias", "K", "Var/K", "‖∇B‖²", "sum", "sampled"],
            [
                [
                    row["bias"],
                    str(row["rollouts"]),
                    *(f"{row[x]:.5f}" for x in ("variance", "squared_bias", "exact")),
                    f"{row['sampled']:.5f} ± {row['sampled_error']:.5f}",
                ]
                for row in bias
            ],
        ),
    ]
    return "\n".join(lines)


def _choices(row: dict[str, Any]) -> list[str]:
    cells = [row["model"]]
    for objective in ("noise_only", "total"):
        best = row[objective]
        cost = "" if best["kind"] == "flat" else f" c = {best['costs'][0]:.3g}"
        cells.append(best["kind"] + cost)
    ratio = row["noise_only"]["total_variance"] / row["total"]["total_variance"]
    return [*cells, f"{ratio:.2f}"]


def draw(
    figure: Figure | SubFigure,
    variance: Sequence[dict[str, Any]],
    simulated: Sequence[dict[str, float]],
    bias: Sequence[dict[str, Any]],
) -> None:
    """Theorem 2 and Proposition 2 on top, Corollary 2 (the paper's Figure 5) below."""
    panels = figure.subplots(2, 3)
    _draw_variance(panels[0, 0], panels[0, 1], variance)
    _draw_bias(panels[0, 2], bias)
    mdp, logits = problem(0.9)
    clean, gain = clean_and_gain(mdp, logits)
    for panel, kind in zip(panels[1], ("power", "bounded", "floor"), strict=True):
        _draw_fidelity(panel, kind, clean, gain)
    for row in simulated:
        panels[1, 0].errorbar(
            row["cost"],
            row["sampled"] * BUDGET,
            2.0 * row["sampled_error"] * BUDGET,
            fmt="k.",
            capsize=2,
        )


def _draw_variance(first: Any, second: Any, variance: Sequence[dict[str, Any]]) -> None:
    for discounted, color in ((True, "C0"), (False, "C1")):
        rows = [row for row in variance if row["discounted"] is discounted]
        discounts = [row["discount"] for row in rows]
        name = "with γ^t" if discounted else "without"
        exact = [row["extra_formula"] for row in rows]
        first.plot(discounts, exact, color=color, label=name)
        first.errorbar(
            discounts,
            [row["extra_sampled"] for row in rows],
            [2.0 * row["extra_sampled_error"] for row in rows],
            fmt=".",
            color=color,
            capsize=2,
        )
        bias = [row["relative_bias"] for row in rows]
        second.plot(discounts, bias, color=color, label=name)
        sampled = [row["relative_bias_sampled"] for row in rows]
        second.plot(discounts, sampled, ".", color=color)
    bounds = [row["paper_bound"] for row in rows]
    first.plot(discounts, bounds, "k--", label="paper's bound")
    first.set_yscale("log")
    first.set_title("Theorem 2: variance added by noise", fontsize="medium")
    second.set_title("relative error of the mean to ∇J", fontsize="medium")
    for panel in (first, second):
        panel.set_xlabel("γ")
        panel.legend(fontsize="x-small")
        panel.grid(alpha=0.3)


def _draw_bias(panel: Any, bias: Sequence[dict[str, Any]]) -> None:
    for name, color in (("random", "C3"), ("constant", "C2")):
        rows = [row for row in bias if row["bias"] == name]
        rollouts = [row["rollouts"] for row in rows]
        panel.loglog(rollouts, [row["exact"] for row in rows], color=color, label=name)
        panel.errorbar(
            rollouts,
            [row["sampled"] for row in rows],
            [2.0 * row["sampled_error"] for row in rows],
            fmt=".",
            color=color,
            capsize=2,
        )
        if rows[0]["squared_bias"] > 1e-12:
            panel.axhline(rows[0]["squared_bias"], color=color, linestyle=":")
    panel.set_title("Proposition 2: squared error (dotted: ‖∇B‖²)", fontsize="medium")
    panel.set_xlabel("rollouts K")
    panel.legend(title="bias of the rewards", fontsize="x-small", title_fontsize=7)
    panel.grid(alpha=0.3)


def _draw_fidelity(panel: Any, kind: str, clean: float, gain: float) -> None:
    """Figure 5 of the paper (dashed) and the total variance (solid)."""
    cost = np.linspace(*COSTS, 400)
    names = [name for name in MODELS if name.startswith(kind)]
    for index, name in enumerate(names):
        model, color = MODELS[name], f"C{index}"
        panel.plot(
            cost, total_variance(model, cost, clean, gain), color=color, label=name
        )
        noise = gain * rn.fidelity_objective(model, cost, objective="noise_only")
        panel.plot(cost, noise, "--", color=color)
        for objective, marker in _MARKERS.items():
            best = optimum(model, objective, clean, gain)
            if best.kind != "flat":
                factor = gain if objective == "noise_only" else 1.0
                heights = [factor * best.value] * len(best.costs)
                panel.plot(best.costs, heights, marker, color=color, markersize=9)
    panel.set_title(f"Corollary 2, {_TITLES[kind]}: variance × B", fontsize="medium")
    panel.set_xlabel("cost c (dashed: noise alone; ▼ ★ optimum)", fontsize="small")
    panel.set_ylim(bottom=0.0)
    panel.legend(fontsize="x-small")
    panel.grid(alpha=0.3)
