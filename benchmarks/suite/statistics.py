"""Statistics over tasks and seeds, as Agarwal et al. (2021) recommend them.

The scores of one arm are a list with one array for each task, which holds one number
for each seed; tasks may have different numbers of seeds. Point estimates are rliable's
(its 1.2 does not import beside pandas 3, so it is no dependency; tests compare with
values that it gave). Intervals are percentile intervals of the stratified bootstrap:
the seeds of every task are resampled by themselves, tasks stay. `scipy.stats.bootstrap`
does that where each task is one of its samples.

With few seeds such an interval is too narrow: of three seeds, a resample is the same
seed three times in one of nine cases. No statistic repairs that.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

Scores = Sequence[Float[np.ndarray, " seeds"]]
"""Of one arm: an array for each task, which may differ in length."""
Statistic = Callable[..., Float[np.ndarray, "..."]]
"""Takes one array (..., seeds) for each task, and reduces to (...)."""

CONFIDENCE = 0.95
RESAMPLES = 5000


class Estimate(NamedTuple):
    """A statistic and its interval; the ends are None where a task has one seed."""

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.3g}"
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def iqm(*tasks: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Interquartile mean: of all runs of all tasks, without the lowest and the highest
    quarter (each rounded down)."""
    return stats.trim_mean(np.concatenate(tasks, axis=-1), 0.25, axis=-1)


def mean(*tasks: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Mean over tasks of the mean over seeds."""
    return np.mean(_task_means(tasks), axis=-1)


def median(*tasks: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Median over tasks of the mean over seeds."""
    return np.median(_task_means(tasks), axis=-1)


def optimality_gap(
    *tasks: Float[np.ndarray, "..."], target: float = 1.0
) -> Float[np.ndarray, "..."]:
    """How far runs fall short of `target`, on average; what exceeds it counts as 0."""
    short = [np.maximum(target - scores, 0.0) for scores in tasks]
    return mean(*short)


def _task_means(tasks: Scores) -> Float[np.ndarray, "... tasks"]:
    return np.stack([np.mean(scores, axis=-1) for scores in tasks], axis=-1)


AGGREGATES: dict[str, Statistic] = {
    "iqm": iqm,
    "mean": mean,
    "median": median,
    "optimality_gap": optimality_gap,
}


def estimate(statistic: Statistic, tasks: Scores) -> Estimate:
    """A statistic of one arm with its stratified bootstrap interval.

    The random numbers are the same at every call: the same scores, the same interval.

    Raises:
        ValueError: there is no task, or one without a seed.
    """
    if not tasks or any(len(scores) == 0 for scores in tasks):
        counts = [len(scores) for scores in tasks]
        raise ValueError(f"tasks: seeds {counts}; each task needs at least one")
    value = float(statistic(*tasks))
    if any(len(scores) < 2 for scores in tasks):
        return Estimate(value, None, None)
    if all(np.ptp(scores) == 0 for scores in tasks):
        return Estimate(value, value, value)
    found = stats.bootstrap(
        tuple(tasks),
        lambda *resampled, axis=-1: statistic(*resampled),
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    interval = found.confidence_interval
    return Estimate(value, float(interval.low), float(interval.high))


def probability_of_improvement(better: Scores, worse: Scores) -> Estimate:
    """Probability that a run of one arm beats one of another, on a random task.

        P = (1/tasks) Σ_tasks (1/n m) Σ_ij [x_i > y_j] + ½ [x_i = y_j]

    Seeds of the two arms are resampled independently.

    Raises:
        ValueError: the arms have different numbers of tasks, or one has no seed.
    """
    if len(better) != len(worse):
        raise ValueError(f"{len(better)} tasks against {len(worse)}; wanted: the same")
    count = len(better)

    def statistic(*both: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        pairs = zip(both[:count], both[count:], strict=True)
        wins = [_wins(x[..., :, None] - y[..., None, :]) for x, y in pairs]
        return np.mean([np.mean(each, axis=(-2, -1)) for each in wins], axis=0)

    return estimate(statistic, [*better, *worse])


def paired_probability_of_improvement(differences: Scores) -> Estimate:
    """The same for runs that are paired by their seed.

    A pair has the same initial weights and the same first episodes in both arms, so
    only the runs of one pair are compared.

    Args:
        differences: for each task, one arm minus the other, an entry a pair.
    """

    def statistic(*tasks: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        return mean(*(_wins(each) for each in tasks))

    return estimate(statistic, differences)


def _wins(difference: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """1 where it is positive, 0 where negative, ½ for a tie."""
    return (np.sign(difference) + 1) / 2


def performance_profile(
    tasks: Scores, thresholds: Float[np.ndarray, " points"]
) -> list[Estimate]:
    """The share of runs whose score exceeds each threshold, mean over tasks."""
    return [
        estimate(lambda *each, at=at: mean(*(x > at for x in each)), tasks)
        for at in thresholds
    ]


def at_steps(
    steps: Sequence[int], returns: Sequence[float], wanted: Float[np.ndarray, " points"]
) -> Float[np.ndarray, " points"]:
    """A learning curve at other steps: linear between evaluations, NaN outside."""
    if not steps:
        return np.full(len(wanted), np.nan)
    return np.interp(wanted, steps, returns, left=np.nan, right=np.nan)


def efficiency_curve(
    statistic: Statistic, curves: Sequence[Float[np.ndarray, "seeds points"]]
) -> list[Estimate | None]:
    """A statistic of the scores reached at each of several steps.

    Args:
        curves: for each task a row for each seed, NaN where its run has no value.

    Returns:
        An entry a point; None where a task has no seed with a value.
    """
    points: list[Estimate | None] = []
    for index in range(curves[0].shape[1]):
        column = [curve[:, index] for curve in curves]
        column = [values[np.isfinite(values)] for values in column]
        whole = all(len(values) for values in column)
        points.append(estimate(statistic, column) if whole else None)
    return points
