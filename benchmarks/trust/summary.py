"""From arrays over starts to the numbers of the report."""

from typing import Any

import numpy as np

from benchmarks.trust.branches import Branches
from benchmarks.trust.measure import Measured, Plan
from benchmarks.trust.statistics import Clusters, correlation, rank_correlation
from benchmarks.trust.windows import Windows
from core.smoothness import AgentNorms
from core.theory.bounds import LipschitzConstants, ModelErrors, check_bounds

Summary = dict[str, Any]


def summarize(measured: Measured, plan: Plan) -> Summary:
    """All numbers of the report; intervals are 95 %, by a bootstrap over episodes."""
    clusters = Clusters(measured.starts.copy)
    branches = measured.branches
    summary: Summary = {
        "starts": len(measured.starts.time),
        "episodes": len(np.unique(measured.starts.copy)),
        "horizons": by_horizon(branches, clusters),
        "value": value_profile(measured, clusters),
        "critic": critic(*measured.every),
        "where": where(measured, plan.steps),
    }
    if measured.norms is not None:
        summary["norms"] = smoothness(measured.norms)
    if measured.latent_noise is not None:
        summary["latent noise"] = measured.latent_noise
    if measured.initial_error is not None:
        summary["initial error"] = measured.initial_error
    if measured.curvature is not None:
        summary["curvature"] = measured.curvature
    if (windows := measured.windows) is not None:
        summary["attribution"] = attribution(windows, plan.steps, clusters)
        if measured.norms is not None:
            summary["bounds"] = bounds(windows, measured.norms, plan)
    return summary


def imagined_rewards(branches: Branches) -> np.ndarray:
    """Σ_{i≤h} D̂_i·r̂_i: discounted rewards of h imagined steps, for every h."""
    return _accumulated(branches.imagined.reward, branches.imagined.discount)


def true_rewards(branches: Branches) -> np.ndarray:
    """Σ_{i≤h} D_i·r_i of the true branches; meaningful where `known`."""
    return _accumulated(branches.reward, branches.discount)


def _accumulated(reward: Any, discount: Any) -> np.ndarray:
    reward, discount = (np.asarray(x, np.float64) for x in (reward, discount))
    before = np.concatenate([np.ones_like(discount[:1]), discount[:-1]])
    return np.cumsum(np.cumprod(before, axis=0) * reward, axis=0)


def by_horizon(branches: Branches, clusters: Clusters) -> Summary:
    """Errors after 1 … horizon imagined steps, one entry for each."""
    known = np.asarray(branches.known)
    reward, guess = (
        np.asarray(x, np.float64) for x in (branches.reward, branches.imagined.reward)
    )
    earned, expected = true_rewards(branches), imagined_rewards(branches)
    spread, correlated = [], []
    for mask, mine, imagined in zip(known, earned, expected, strict=True):
        mine, imagined = mine[mask], imagined[mask]
        spread.append(float(np.std(mine)) if len(mine) else float("nan"))
        correlated.append(correlation(mine, imagined))
    return {
        "known": known.mean(-1).tolist(),
        "observation": clusters.mean(np.asarray(branches.error), known),
        "unchanged": clusters.mean(np.asarray(branches.unchanged), known),
        "reward bias": clusters.mean(guess - reward, known),
        "reward squared error": clusters.mean(np.square(guess - reward), known),
        "return bias": clusters.mean(expected - earned, known),
        "return squared error": clusters.mean(np.square(expected - earned), known),
        "return spread": spread,
        "return correlation": correlated,
    }


def value_profile(measured: Measured, clusters: Clusters) -> Summary:
    """Squared error of V̂_h(q) as an estimate of the realized return, h = 0 … horizon.

    The realized return has noise of its own, which is the same for all h. `flat` are
    the lengths whose error is not distinguishable from the lowest, by the interval of
    the paired difference.
    """
    branches = measured.branches
    imagined = branches.imagined
    weight = np.cumprod(np.asarray(imagined.discount, np.float64), axis=0)
    estimates = imagined_rewards(branches) + weight * np.asarray(imagined.value)
    start = np.asarray(branches.start.value, np.float64)[None]
    squared = np.square(np.concatenate([start, estimates]) - measured.realized)
    means = clusters.mean(squared)
    best = int(np.argmin(means["mean"]))
    worse = np.asarray(clusters.mean(squared - squared[best])["low"])
    flat = [h for h in range(len(squared)) if h == best or worse[h] <= 0]
    return {
        "squared error": means,
        "best": best,
        "flat": flat,
        "variance": float(np.var(measured.realized)),
    }


def critic(value: np.ndarray, realized: np.ndarray) -> Summary:
    """v̂ against realized returns, in all states recorded.

    `excess` is its squared error less that of the mean return, as a constant.
    """
    # Every copy of the environment is a cluster.
    copy = np.broadcast_to(np.arange(value.shape[1]), value.shape).ravel()
    value, realized = value.ravel(), realized.ravel()
    constant = np.square(realized - np.mean(realized))
    excess = Clusters(copy).mean(np.square(value - realized) - constant)
    return {
        "excess": excess,
        "bias": float(np.mean(value - realized)),
        "rmse": float(np.sqrt(np.mean(np.square(value - realized)))),
        "spread": float(np.std(realized)),
        "correlation": correlation(value, realized),
    }


def bounds(windows: Windows, norms: AgentNorms, plan: Plan) -> Summary:
    """The paper's bounds with the largest errors and local norms that were measured.

    These norms are of the model, and only at visited states: the bounds are what the
    theory would say if they held everywhere, not guarantees. A bound is vacuous if it
    is above the largest error that rewards and returns of the size seen allow.
    """
    steepest = {name: float(map_.spectral.largest) for name, map_ in norms.maps.items()}
    of_state, of_action = steepest["dynamics_state"], steepest["dynamics_action"]
    constants = LipschitzConstants(
        dynamics_state=of_state,
        dynamics_action=of_action,
        # The reward is that of the state arrived in: r(f(s, a)).
        reward_state=steepest["reward"] * of_state,
        reward_action=steepest["reward"] * of_action,
        policy=steepest["policy"],
    )
    true, model = (
        [np.asarray(x, np.float64) for x in part]
        for part in (windows.true, windows.model)
    )
    errors = ModelErrors(
        dynamics=float(np.max(windows.distance)),
        reward=float(np.max(np.abs(true[0] - model[0]))),
        critic=float(np.max(np.abs(true[2] - model[2]))),
        critic_slope=steepest["value"],
    )
    weights = plan.discount ** np.arange(plan.steps + 1)
    spread = np.ptp(true[0]) * weights[:-1].sum() + np.ptp(true[2]) * weights[-1]
    gap = float(np.max(np.abs(windows.attribute().gap)))
    found = check_bounds(
        gap,
        constants,
        errors,
        discount=plan.discount,
        horizon=plan.steps,
        largest_gap=max(float(spread), 1e-30),
    )
    return {
        "largest gap": gap,
        "constants": constants._asdict(),
        "errors": errors._asdict(),
        "bounds": {name: each._asdict() for name, each in found.items()},
    }


def attribution(windows: Windows, count: int, clusters: Clusters) -> Summary:
    """J_H − V̂_H(q_0) and its parts: means with intervals, and root mean squares."""
    found = windows.attribute()
    returns = found.gap + np.asarray(windows.imagined[0], np.float64)
    steps = {
        name: np.asarray(getattr(found, name), np.float64)
        for name in ("reward", "dynamics", "continuation")
    }
    parts = {name: part.sum(0) for name, part in steps.items()}
    parts["value"] = np.asarray(found.value, np.float64)
    total = sum(parts.values())
    parts["gap"] = np.asarray(found.gap, np.float64)
    parts["model"] = parts["gap"] - parts["value"]
    return {
        "steps": count,
        "return": float(np.mean(returns)),
        "return spread": float(np.std(returns)),
        "mean": {name: clusters.mean(part) for name, part in parts.items()},
        "rms": {
            name: float(np.sqrt(np.mean(np.square(part))))
            for name, part in parts.items()
        },
        "per step": {name: part.mean(-1).tolist() for name, part in steps.items()},
        "largest residual": float(np.max(np.abs(total - parts["gap"]))),
    }


def smoothness(norms: AgentNorms) -> Summary:
    """Norms of the agent's maps: medians, 90 % quantiles and largest, over states."""

    def quantiles(found: Any) -> dict[str, Any]:
        return {key: np.asarray(x).tolist() for key, x in found._asdict().items()}

    return {
        "spectral": {
            name: quantiles(found.spectral) | {"converged": float(found.converged)}
            for name, found in norms.maps.items()
        },
        "rows": {name: quantiles(x) for name, x in norms.rows.items()},
        "growth": quantiles(norms.average_growth),
        "curvature": {
            key: float(x) if np.isfinite(x) else None
            for key, x in norms.curvature._asdict().items()
        },
    }


def where(measured: Measured, steps: int) -> Summary:
    """Spearman's ρ between what a start is like and how wrong the model is from it.

    The errors are those of a branch after `steps` steps: of the observation, and of the
    return, in absolute value.
    """
    branches = measured.branches
    known = np.asarray(branches.known)[steps - 1]
    error = np.asarray(branches.error, np.float64)[steps - 1]
    gap = np.abs(true_rewards(branches) - imagined_rewards(branches))[steps - 1]
    return {
        name: {
            "observation": rank_correlation(feature[at], error[at]),
            "return": rank_correlation(feature[at], gap[at]),
            "starts": int(at.sum()),
        }
        for name, feature in measured.features.items()
        if len(at := known & np.isfinite(feature))
    }
