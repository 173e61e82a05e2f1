"""What the runs of a suite come to: aggregates over tasks and seeds, by arm.

Returns are compared in two scales: `raw`, the return / 1000 (the largest that a task of
dm_control has), and `normalized`, the return / the baseline's mean final return in that
task, as the GPLD paper does (appendix B). The second takes the baseline's mean for
exact, so its intervals leave that uncertainty out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from benchmarks.suite import statistics
from benchmarks.suite.statistics import Estimate, Scores

Runs = Sequence[Mapping[str, Any]]
PERFECT = 1000.0
_POINTS = 24  # of an aggregate curve
THRESHOLDS = 21  # of a performance profile


def by_task(runs: Runs, arm: str) -> dict[str, dict[int, Mapping[str, Any]]]:
    """An arm's runs by task and seed."""
    found: dict[str, dict[int, Mapping[str, Any]]] = {}
    for run in runs:
        if run["arm"] == arm:
            found.setdefault(run["task"], {})[run["seed"]] = run
    return found


def finals(runs: Runs, arm: str, tasks: Sequence[str]) -> list[Float[np.ndarray, " n"]]:
    """Final returns of one arm: an array over seeds for each task."""
    found = by_task(runs, arm)
    return [
        np.array([run["final_return"] for _, run in sorted(found[task].items())])
        for task in tasks
    ]


def common_tasks(runs: Runs, arms: Sequence[str]) -> list[str]:
    """Tasks of which every arm has a finished run, in order of appearance."""
    tasks = list(dict.fromkeys(run["task"] for run in runs))
    return [t for t in tasks if all(t in by_task(runs, arm) for arm in arms)]


def summarize(
    runs: Runs, *, arms: Sequence[str], baseline: str | None
) -> dict[str, Any]:
    """Everything that tables and pictures of aggregates need.

    Returns:
        `seeds` (finished runs by arm and task) and `tasks` (those that every arm has a
        run of: the others are left out of what follows). Where there are such tasks:
        by arm `raw`, `normalized` (with a baseline whose returns are positive),
        `improvement` over the baseline, `profiles` and `efficiency`. An estimate is
        [value, low, high].
    """
    tasks = common_tasks(runs, arms)
    counts = {arm: {t: len(s) for t, s in by_task(runs, arm).items()} for arm in arms}
    result: dict[str, Any] = {"seeds": counts, "tasks": tasks}
    if not tasks:
        return result
    scores = {arm: finals(runs, arm, tasks) for arm in arms}
    scales = {"raw": np.full(len(tasks), PERFECT)}
    if baseline is not None:
        means = np.array([x.mean() for x in scores[baseline]])
        if np.all(means > 0):
            scales["normalized"] = means
        others = [arm for arm in arms if arm != baseline]
        result["improvement"] = {
            arm: improvement(runs, arm, baseline, tasks) for arm in others
        }
    for name, scale in scales.items():
        result[name] = {
            arm: aggregates([x / by for x, by in zip(each, scale, strict=True)])
            for arm, each in scores.items()
        }
    result["profiles"] = profiles(scores)
    result["efficiency"] = efficiency(runs, arms, tasks, scales)
    return _rounded(result)


def _rounded(value: Any) -> Any:
    """Six digits of every number, which is more than any of them is worth."""
    if isinstance(value, dict):
        return {key: _rounded(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inside) for inside in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def aggregates(scores: Scores) -> dict[str, Estimate]:
    """IQM, mean, median and optimality gap."""
    return {
        name: statistics.estimate(statistic, scores)
        for name, statistic in statistics.AGGREGATES.items()
    }


def improvement(
    runs: Runs, arm: str, baseline: str, tasks: Sequence[str]
) -> dict[str, Any]:
    """Probability that the arm's run beats the baseline's; also paired by seed."""
    ours, theirs = by_task(runs, arm), by_task(runs, baseline)
    pairs = [
        np.array(
            [
                ours[task][seed]["final_return"] - theirs[task][seed]["final_return"]
                for seed in sorted(ours[task].keys() & theirs[task].keys())
            ]
        )
        for task in tasks
    ]
    paired = None
    if all(len(each) for each in pairs):
        paired = statistics.paired_probability_of_improvement(pairs)
    return {
        "unpaired": statistics.probability_of_improvement(
            finals(runs, arm, tasks), finals(runs, baseline, tasks)
        ),
        "paired": paired,
        "pairs": sum(len(each) for each in pairs),
        "paired_difference": {
            task: float(each.mean()) if len(each) else None
            for task, each in zip(tasks, pairs, strict=True)
        },
    }


def profiles(scores: Mapping[str, Scores]) -> dict[str, Any]:
    """The share of runs above each return / 1000."""
    thresholds = np.linspace(0, 1, THRESHOLDS)
    return {
        "thresholds": thresholds.tolist(),
        "arms": {
            arm: statistics.performance_profile([x / PERFECT for x in each], thresholds)
            for arm, each in scores.items()
        },
    }


def efficiency(
    runs: Runs,
    arms: Sequence[str],
    tasks: Sequence[str],
    scales: Mapping[str, Float[np.ndarray, " tasks"]],
) -> dict[str, Any]:
    """Aggregate learning curves: IQM and mean over the steps that all tasks have."""
    curves = [run["curve"]["steps"] for run in runs if run["task"] in tasks]
    first, last = max(x[0] for x in curves), min(x[-1] for x in curves)
    steps = np.linspace(first, max(last, first), _POINTS).round().astype(int)
    result: dict[str, Any] = {"steps": steps.tolist()}
    for arm in arms:
        found = by_task(runs, arm)
        values = [
            np.stack([curve_at(run, steps) for run in found[task].values()])
            for task in tasks
        ]
        for name, scale in scales.items():
            scaled = [x / by for x, by in zip(values, scale, strict=True)]
            result.setdefault(name, {})[arm] = {
                "iqm": statistics.efficiency_curve(statistics.iqm, scaled),
                "mean": statistics.efficiency_curve(statistics.mean, scaled),
            }
    return result


def curve_at(run: Mapping[str, Any], steps: np.ndarray) -> Float[np.ndarray, " n"]:
    """A run's evaluations at other steps."""
    return statistics.at_steps(run["curve"]["steps"], run["curve"]["returns"], steps)
