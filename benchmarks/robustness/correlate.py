"""Does a smooth model make a robust agent? Rank correlations over agents."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from benchmarks.robustness.play import Trained

Vector = Float[np.ndarray, " agents"]
FEWEST = 5
"""Agents, below which a rank correlation says nothing: of four in order by chance, one
in twelve is ±1."""


class Correlation(NamedTuple):
    """A rank correlation over agents and its 95 % interval.

    The interval is of a bootstrap over runs, since agents of one run are no independent
    samples; None with fewer than `FEWEST` runs.
    """

    value: float
    low: float | None
    high: float | None
    agents: int

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:+.2f}"
        return f"{self.value:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def relative_drop(returns: Float[np.ndarray, "agents conditions"]) -> Vector:
    """Share of the return under the first condition that is lost in the mean over all
    others; NaN where there is none to lose."""
    clean = returns[:, 0]
    mean = returns[:, 1:].mean(-1)
    return np.where(clean > 0, 1 - mean / np.where(clean > 0, clean, 1), np.nan)


def correlate(
    x: Vector, y: Vector, who: Sequence[Trained], given: Vector | None = None
) -> Correlation | None:
    """Spearman's rank correlation, or the partial one given a third quantity.

    None with fewer than `FEWEST` agents, or where one of the quantities is constant.
    """
    columns = [x, y] + ([] if given is None else [given])
    known = np.all(np.isfinite(columns), axis=0)
    if known.sum() < FEWEST:
        return None
    table = np.array(columns)[:, known]
    # In a suite's folder the runs of every arm have the same names.
    runs = np.array([f"{one.arm} {one.run} {one.seed}" for one in who])[known]
    value = _spearman(table)
    if not np.isfinite(value):
        return None
    names = np.unique(runs)
    if len(names) < FEWEST:
        return Correlation(value, None, None, int(known.sum()))
    rng = np.random.default_rng(0)
    members = [np.flatnonzero(runs == name) for name in names]
    drawn = []
    for _ in range(2000):
        chosen = rng.integers(len(members), size=len(members))
        drawn.append(_spearman(table[:, np.concatenate([members[i] for i in chosen])]))
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return Correlation(value, float(low), float(high), int(known.sum()))


def _spearman(table: Float[np.ndarray, "columns agents"]) -> float:
    ranks = np.array([stats.rankdata(row) for row in table])
    if np.any(ranks.std(-1) == 0):
        return float("nan")
    r = np.corrcoef(ranks)
    if len(table) == 2:
        return float(r[0, 1])
    rest = (1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2)
    return float((r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt(rest)) if rest > 0 else np.nan


def paragraph(
    found: Mapping[str, Mapping[str, Correlation | None]],
    skill: Correlation | None = None,
) -> str:
    """What the correlations say, in words.

    Args:
        found: of each norm, with `drop` and `drop given return`.
        skill: of the unperturbed return with the drop.
    """
    sentences = []
    if skill is not None:
        sentences.append(
            f"The relative drop has a rank correlation of {skill} with the unperturbed "
            "return: an agent that does little has little to lose."
            if skill.value > 0
            else f"The relative drop has a rank correlation of {skill} with the "
            "unperturbed return."
        )
    for norm, row in found.items():
        drop, partial = row["drop"], row["drop given return"]
        if drop is None:
            sentences.append(
                f"The {norm}'s norm: too few agents with a return to lose (at least "
                f"{FEWEST}) for a rank correlation."
            )
            continue
        sentences.append(
            f"Over {drop.agents} agents, the rank correlation of the {norm}'s norm "
            f"with the relative drop of the return is {drop}{_meaning(drop)}"
            + (f"; given the unperturbed return {partial}." if partial else ".")
        )
    return " ".join(sentences)


def _meaning(found: Correlation) -> str:
    if found.low is None or found.high is None:
        return " (too few runs for an interval)"
    if found.low <= 0 <= found.high:
        return ", and 0 is not excluded"
    side = "less" if found.low > 0 else "more"
    return f": agents with smoother maps lost {side}"
