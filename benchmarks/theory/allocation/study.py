"""Does equation (4) predict the optimal split of a budget? (Section 4.2)

Two questions: does the proportionality hold with measured sensitivities, and how
accurate is the multiplier from global Lipschitz constants? Both are measured by
ℓ = log(predicted n_d/n_r / realized n_d/n_r).

Parametric groups: the value is J(θ_f, θ_r) = φ(θ_f) + θ_r and the model errors are
ε_f = σ n_d^-a and ε_r = n_r^-b, so the realized optimum is found by a line search. The
linear group is a sanity check. The paper does not specify its grids; ours are
`THETAS` × `SIGMAS` × `REWARD_COSTS` × `EXPONENTS`. `lqg` is the linear-quadratic group.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, get_args

import numpy as np
from matplotlib.figure import Figure, SubFigure
from scipy.stats import binomtest, spearmanr

from benchmarks.measure.tables import text_table
from benchmarks.theory.allocation.linear import MARGIN, best_counts, linear_rows
from benchmarks.theory.allocation.lqg import (
    ANCHORS,
    CONTRACTION,
    DISCOUNT,
    QUICK_ANCHORS,
    LQGResult,
    lqg_results,
)
from benchmarks.theory.study import Progress, Study
from core.theory.allocation import (
    Costs,
    ErrorUnit,
    optimal_allocation,
    ratio_formula,
)
from core.theory.powerlaw import PowerLaw

VALUES: Mapping[str, Callable[[float], float]] = {
    "linear": lambda theta: theta,
    "tanh": np.tanh,
    "sin": np.sin,
    "quadratic": lambda theta: theta**2,
}
THETAS = (0.2, 0.5, 0.8)
SIGMAS = (0.5, 1.0, 2.0)
REWARD_COSTS = (0.1, 1.0, 10.0)
EXPONENTS = ((0.5, 0.5), (0.3, 0.6), (0.6, 0.3))
BUDGET = 2e4

LARGEST_ERROR = 0.3
"""Upper limit of ε_f: for larger ones the periodic sine can have a gap of 0."""

DOMAIN = 1.5
"""|θ| ≤ DOMAIN: the domain over which the control takes the largest slope."""

STEP = 0.01
"""Step of finite differences, as a fraction of the error."""

PAPER = 1968.0
"""The paper's median factor by which global constants overshoot."""

CONTROL = "quadratic, largest slope"
"""The control group: the largest slope on the domain instead of the local one."""


def run(*, quick: bool, progress: Progress) -> Study:
    """Section 4.2: four parametric groups and linear-quadratic systems.

    Args:
        quick: 6 systems instead of 30, and every second anchor of their power laws.
        progress: called with the completed fraction.
    """
    grid = list(itertools.product(THETAS, SIGMAS, REWARD_COSTS, EXPONENTS))
    groups = {
        name: _summary([parametric(value, *row) for row in grid])
        for name, value in VALUES.items()
    }
    largest = 2 * DOMAIN
    groups[CONTROL] = _summary(
        [parametric(VALUES["quadratic"], *row, slope=largest) for row in grid]
    )
    linear = linear_rows(
        exponents=EXPONENTS,
        reward_costs=REWARD_COSTS,
        budget=BUDGET,
        largest_error=LARGEST_ERROR,
        step=STEP,
    )
    progress(0.1)
    results = lqg_results(
        seeds=6 if quick else 30,
        anchors=QUICK_ANCHORS if quick else ANCHORS,
        progress=lambda done: progress(0.1 + 0.85 * done),
    )
    entries = {
        "what": "l = log(predicted n_d/n_r over realized n_d/n_r), equation (4)",
        "parametric": groups,
        "linear_dynamics": _linear_summary(linear),
        "lqg": _lqg_summary(results),
        "units": _units(),
        "paper": {"lqg_global_factor": PAPER},
    }
    progress(1.0)
    rows = _configurations(grid, groups, results) + linear
    return Study(_tables(entries), entries, lambda figure: _draw(figure, entries), rows)


def parametric(
    value: Callable[[float], float],
    theta: float,
    sigma: float,
    reward_cost: float,
    exponents: tuple[float, float],
    *,
    slope: float | None = None,
) -> tuple[float, float]:
    """Predicted and realized n_d/n_r of one configuration.

    The prediction uses the errors at the realized optimum. The sensitivity S_f is
    `slope` or, by default, a finite difference there; S_r is 1.
    """
    a, b = exponents
    dynamics, reward = PowerLaw(sigma, a), PowerLaw(1.0, b)

    def gap(n_d: float, n_r: float) -> float:
        return abs(value(theta + dynamics(n_d)) - value(theta)) + reward(n_r)

    n_d, n_r = best_counts(
        gap,
        budget=BUDGET,
        reward_cost=reward_cost,
        fewest=(sigma / LARGEST_ERROR) ** (1 / a),
    )
    off = STEP * dynamics(n_d)
    predicted = ratio_formula(
        exponents=exponents,
        multiplier=slope or abs(value(theta + off) - value(theta)) / off,
        costs=Costs(1.0, reward_cost),
        errors=(dynamics(n_d), reward(n_r)),
    )
    return predicted, n_d / n_r


def _summary(rows: list[tuple[float, float]]) -> dict[str, Any]:
    predicted, realized = np.array(rows).T
    log_ratio = np.log(predicted / realized)
    return {
        "configurations": len(rows),
        "median_abs": float(np.median(np.abs(log_ratio))),
        "max_abs": float(np.max(np.abs(log_ratio))),
        "spearman": _spearman(predicted, realized),
        "predicted": predicted.tolist(),
        "realized": realized.tolist(),
    }


def _configurations(
    grid: list[Any], groups: Mapping[str, Any], results: list[LQGResult]
) -> list[dict[str, Any]]:
    """A row for each configuration of every group; `log_ratio` is ℓ."""
    rows = []
    for name, group in groups.items():
        ratios = zip(grid, group["predicted"], group["realized"], strict=True)
        for (theta, sigma, cost, (a, b)), predicted, realized in ratios:
            row = {"group": name, "theta": theta, "sigma": sigma, "reward_cost": cost}
            row |= {"alpha_d": a, "alpha_r": b}
            row |= {"predicted": predicted, "realized": realized}
            rows.append(row | {"log_ratio": float(np.log(predicted / realized))})
    for seed, result in enumerate(results):
        fits = {"d": result.dynamics_fit, "r": result.reward_fit}
        row = {"group": "lqg", "seed": seed}
        for letter, found in fits.items():
            row[f"A_{letter}"] = found.law.scale
            row[f"alpha_{letter}"] = found.law.exponent
            row[f"R2_{letter}"] = found.r_squared
        row |= {
            "S_f": result.dynamics_sensitivity,
            "S_r": result.reward_sensitivity,
            "K": result.global_multiplier,
            "K_over_K_prime": result.multiplier_ratio,
            "radius": result.radius,
            "contraction": DISCOUNT * CONTRACTION,
            "boundary_excluded": DISCOUNT * CONTRACTION > 1 - MARGIN,
            "predicted": result.predicted,
            "predicted_global": result.predicted_global,
            "realized": result.realized,
            "log_ratio": float(np.log(result.predicted / result.realized)),
        }
        rows.append(row)
    return rows


def _linear_summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the linear group's own grid, without its boundary cases."""
    kept = [row for row in rows if not row["boundary_excluded"]]
    pairs = {
        name: _summary([(row[name], row["realized"]) for row in kept])
        for name in ("predicted", "predicted_global")
    }
    return {
        "boundary_excluded": len(rows) - len(kept),
        "margin": MARGIN,
        "largest_contraction": max(row["contraction"] for row in kept),
        "measured": pairs["predicted"],
        "global": pairs["predicted_global"],
    }


def _lqg_summary(results: list[LQGResult]) -> dict[str, Any]:
    def column(name: str) -> np.ndarray:
        return np.array([getattr(result, name) for result in results])

    measured = np.log(column("predicted") / column("realized"))
    constants = np.log(column("predicted_global") / column("realized"))
    ratio = column("multiplier_ratio")
    over = int(np.sum(constants > 0))
    sign = binomtest(over, len(results), alternative="greater")
    return {
        "systems": len(results),
        "overshoot": over,
        "sign_test_p": float(sign.pvalue),
        "median_global": float(np.median(constants)),
        "median_measured": float(np.median(measured)),
        "median_abs_measured": float(np.median(np.abs(measured))),
        "spearman_measured": _spearman(column("predicted"), column("realized")),
        "spearman_global": _spearman(column("predicted_global"), column("realized")),
        "multiplier_ratio": {
            "median": float(np.median(ratio)),
            "min": float(np.min(ratio)),
            "max": float(np.max(ratio)),
        },
        "least_r_squared": min(
            min(r.dynamics_fit.r_squared, r.reward_fit.r_squared) for r in results
        ),
        "exponents": {
            "dynamics": [r.dynamics_fit.law.exponent for r in results],
            "reward": [r.reward_fit.law.exponent for r in results],
        },
        "log_ratio_global": constants.tolist(),
        "log_ratio_measured": measured.tolist(),
    }


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    result: Any = spearmanr(a, b)
    return float(result.statistic)


def _units() -> dict[str, Any]:
    """Theorem 1 for the paper's own fits, in either unit, at equal costs."""
    laws = PowerLaw(0.34, 0.11), PowerLaw(90.4, 0.96)
    found = {
        unit: optimal_allocation(
            *laws,
            unit="mse",
            bound_unit=unit,
            multiplier=1.0,
            costs=Costs(1.0, 1.0),
            budget=BUDGET,
        ).ratio
        for unit in get_args(ErrorUnit)
    }
    return {"what": "n_d/n_r of the paper's fits, kappa = 1, equal costs", **found}


def _tables(entries: dict[str, Any]) -> str:
    lines = ["equation (4): ℓ = log(predicted / realized n_d/n_r)", ""]
    rows = [
        [
            name,
            str(g["configurations"]),
            *(f"{g[x]:.4f}" for x in ("median_abs", "max_abs", "spearman")),
        ]
        for name, g in entries["parametric"].items()
    ]
    lines.append(text_table(["parametric", "n", "median |ℓ|", "max |ℓ|", "ρ"], rows))
    own = entries["linear_dynamics"]
    g = own["measured"]
    lines += [
        "",
        f"linear group, its own grid: {g['configurations']} configurations, γc < 1;",
        f"  {own['boundary_excluded']} more excluded as γc > {1 - own['margin']:g}; "
        f"largest |ℓ| {g['max_abs']:.1e}, with global constants "
        f"{own['global']['max_abs']:.1e}",
    ]
    g, ratio = entries["lqg"], entries["lqg"]["multiplier_ratio"]
    lines += [
        "",
        f"linear-quadratic, {g['systems']} systems "
        f"(R² of their power laws at least {g['least_r_squared']:.3f})",
        f"  global constants: {g['overshoot']} of {g['systems']} overshoot "
        f"(sign test p = {g['sign_test_p']:.1e}), median ℓ {g['median_global']:.2f},",
        f"    a factor {np.exp(g['median_global']):.0f} (paper {PAPER:.0f}), "
        f"ρ {g['spearman_global']:.2f}",
        f"  measured sensitivities: median |ℓ| {g['median_abs_measured']:.2f}, "
        f"median ℓ {g['median_measured']:.2f}, "
        f"ρ {g['spearman_measured']:.2f}",
        f"  K/K': median {ratio['median']:.2f}, {ratio['min']:.2f} to "
        f"{ratio['max']:.2f}",
        "",
        "units: n_d/n_r from the paper's fits (κ = 1, equal costs) is "
        f"{entries['units']['mse']:.3g}",
        f"  with squared errors inserted as printed, {entries['units']['rmse']:.3g} "
        "with their roots",
    ]
    return "\n".join(lines)


def _draw(figure: Figure | SubFigure, entries: dict[str, Any]) -> None:
    left, right = figure.subplots(1, 2)
    markers = {"linear": "s", "tanh": "^", "sin": "v", "quadratic": "o", CONTROL: "x"}
    for index, (name, g) in enumerate(entries["parametric"].items()):
        left.plot(
            g["realized"],
            g["predicted"],
            markers[name],
            color=f"C{index}",
            markersize=4,
            fillstyle="none",
            label=f"{name}: median |ℓ| {g['median_abs']:.3f}",
        )
    ends = [1e-2, 1e4]
    left.plot(ends, ends, color="0.4", linewidth=1)
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xlabel("realized n_d / n_r")
    left.set_ylabel("predicted n_d / n_r")
    left.set_title("equation (4), parametric values")
    left.legend(fontsize="x-small")
    g = entries["lqg"]
    bins = np.linspace(-2, 8, 41).tolist()
    for name, key in (
        ("measured sensitivities", "log_ratio_measured"),
        ("global Lipschitz constants", "log_ratio_global"),
    ):
        right.hist(g[key], bins=bins, alpha=0.7, label=name)
    right.axvline(0, color="0.4", linewidth=1)
    right.axvline(np.log(PAPER), color="C1", linestyle=":", label="the paper's median")
    right.set_xlim(-2, 8)
    right.set_xlabel("ℓ = log(predicted / realized)")
    right.set_ylabel("systems")
    right.set_title(f"{g['systems']} linear-quadratic systems")
    right.legend(fontsize="x-small")
    for panel in (left, right):
        panel.grid(alpha=0.3)
