"""The split that Theorem 1 recommends, with its uncertainty, or why there is none.

ε_f(n) and ε_r(n), root mean square errors, are fitted as power laws to students trained
on sub-samples of the run's own replay; κ = S_f/S_r is the ratio of their realized
effects on a return, by unit of error, at the largest n. A sample of either kind costs
the same. The ratio is that of the optimum for a budget of the largest n, so that both
counts are within what was fitted, unless one is below the smallest n.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.trust.budget.replayed import (
    NotMeasured,
    Rows,
    load_replay,
    observed,
    sequences,
)
from benchmarks.trust.budget.students import Effort, Learned, learn, parts
from core.agent import Agent
from core.theory.allocation import Costs, optimal_allocation
from core.theory.powerlaw import PowerLaw, fit, local_slopes
from envs import Env
from train.config import Config

COUNTS = (256, 512, 1024, 2048, 4096)
FEWEST = 3  # of COUNTS
LENGTH, HELD = 15, 128
"""Steps of a sequence, and sequences that are held out."""
LEAST_R_SQUARED = 0.9
RESAMPLES = 500
EFFORT = Effort()


def split_budget(
    run_dir: Path,
    config: Config,
    env: Env,
    agent: Agent,
    *,
    index: int = 0,
    counts: tuple[int, ...] = COUNTS,
    effort: Effort = EFFORT,
) -> dict[str, Any]:
    """The recommended n_d/n_r for an agent; `refused` says why there is none."""
    try:
        buffer = load_replay(run_dir, config, env, index)
        samples, held, counts = _samples(agent, buffer, counts)
    except NotMeasured as reason:
        return {"refused": str(reason)}
    learned = {
        name: learn(
            part,
            samples,
            held,
            counts=counts,
            discount=config.discount,
            effort=effort,
            key=jax.random.key(place),
        )
        for place, (name, part) in enumerate(parts(agent).items())
    }
    return decide(counts, learned)


def _samples(
    agent: Agent, buffer: Any, counts: tuple[int, ...]
) -> tuple[Rows, Rows, tuple[int, ...]]:
    """Single steps to learn from, held-out sequences, and the counts there are."""
    rows = sequences(
        buffer, length=LENGTH, most=HELD + 2 * max(counts) // LENGTH + 1, seed=0
    )
    needed = sorted(counts)[FEWEST - 1]
    available = max(0, rows.reward.shape[1] - HELD) * LENGTH
    if available < needed:
        raise NotMeasured(_too_few(available, needed))
    found = jax.jit(observed)(agent, rows, jax.random.key(0))
    held = jax.tree.map(lambda x: x[:, :HELD], found)
    single = jax.tree.map(lambda x: x[:, HELD:].reshape(-1, *x.shape[2:]), found)
    usable = np.flatnonzero(single.valid)
    enough = tuple(count for count in counts if count <= len(usable))
    if len(enough) < FEWEST:
        raise NotMeasured(_too_few(len(usable), needed))
    reward = np.asarray(found.reward)[np.asarray(found.valid)]
    if np.ptp(reward) == 0:
        raise NotMeasured("all rewards in the replay are the same")
    return jax.tree.map(lambda x: jnp.asarray(x)[usable], single), held, enough


def _too_few(steps: int, needed: int) -> str:
    return (
        f"the replay has {steps:,} steps beside {HELD} held-out sequences; "
        f"{needed:,} are needed"
    )


def decide(counts: tuple[int, ...], learned: dict[str, Learned]) -> dict[str, Any]:
    """Power laws, κ and the optimal split; its interval is over the students' seeds.

    Resampling the seeds covers neither the choice of the power law nor that of the
    held-out sequences, so that the interval is too narrow.
    """
    anchors = np.asarray(counts, float)
    laws, kappa = _laws(anchors, learned)
    found: dict[str, Any] = {
        "counts": list(counts),
        "kappa": kappa,
        "kappa by count": _kappas(learned).tolist(),
    }
    rng = np.random.default_rng(0)
    drawn = [_laws(anchors, _resampled(learned, rng)) for _ in range(RESAMPLES)]
    why = []
    for name, part in learned.items():
        fitted = fit(anchors, part.error)
        exponents = [each[0][name].exponent for each in drawn]
        low, high = np.percentile(exponents, [2.5, 97.5])
        found[name] = {
            "error": part.error.mean(1).tolist(),
            "effect": part.effect.mean(1).tolist(),
            "scale": fitted.law.scale,
            "exponent": fitted.law.exponent,
            "low": float(low),
            "high": float(high),
            "r_squared": fitted.r_squared,
            "local slopes": local_slopes(anchors, part.error).tolist(),
        }
        if low <= 0 or fitted.r_squared < LEAST_R_SQUARED:
            why.append(
                f"errors of {name} are no power law (exponent "
                f"{fitted.law.exponent:.2f} [{low:.2f}, {high:.2f}], "
                f"R² {fitted.r_squared:.2f})"
            )
    if why:
        return found | {"refused": "; ".join(why)}
    ratios = [_ratio(counts, *each) for each in drawn]
    low, high = np.percentile(ratios, [2.5, 97.5])
    ratio = _ratio(counts, laws, kappa)
    fewer = max(counts) * min(ratio, 1.0) / (1 + ratio)
    return found | {
        "budget": max(counts),
        "ratio": ratio,
        "low": float(low),
        "high": float(high),
        "extrapolated": fewer < min(counts),
    }


def _laws(
    anchors: np.ndarray, learned: dict[str, Learned]
) -> tuple[dict[str, PowerLaw], float]:
    laws = {name: fit(anchors, part.error).law for name, part in learned.items()}
    return laws, float(_kappas(learned)[-1])


def _kappas(learned: dict[str, Learned]) -> np.ndarray:
    """S_f/S_r at each count: effects on a return by unit of error."""
    by_unit = {
        name: part.effect.mean(1) / part.error.mean(1) for name, part in learned.items()
    }
    return by_unit["dynamics"] / by_unit["reward"]


def _resampled(
    learned: dict[str, Learned], rng: np.random.Generator
) -> dict[str, Learned]:
    """Seeds drawn anew for each count: error and effect of a student together."""

    def drawn(part: Learned) -> Learned:
        rows, seeds = part.error.shape
        at = np.arange(rows)[:, None], rng.integers(seeds, size=(rows, seeds))
        return Learned(part.error[at], part.effect[at])

    return {name: drawn(part) for name, part in learned.items()}


def _ratio(counts: tuple[int, ...], laws: dict[str, PowerLaw], kappa: float) -> float:
    """n_d/n_r; NaN where a law of a resample does not fall."""
    if min(law.exponent for law in laws.values()) <= 0:
        return float("nan")
    return optimal_allocation(
        laws["dynamics"],
        laws["reward"],
        unit="rmse",
        multiplier=kappa,
        costs=Costs(1.0, 1.0),
        budget=float(max(counts)),
    ).ratio
