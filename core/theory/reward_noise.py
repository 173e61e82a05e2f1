"""REINFORCE from noisy or biased rewards (*On Training in Imagination*, section 5).

Theorem 2: noise on the rewards leaves the estimator's mean as it is and adds variance.
Corollary 2: how much to pay for each reward annotation out of a fixed budget.
Proposition 2: a bias of the rewards is a bias of the gradient, for any number of
rollouts.

**Theorem 2, what is true.** Scores are martingale differences (E[w_t | past] = 0), so
cross terms vanish and the variance that noise of variance σ² adds is known exactly:

    (σ²/K) Σ_t E‖w_t‖² Σ_{t≤k<H} γ^{2k}           with γ^t
    (σ²/K) Σ_t E‖w_t‖² Σ_{t≤k<H} γ^{2(k−t)}       without

The paper prints the upper bound σ² H E max_t‖w_t‖² / (K(1−γ)²) (`theorem_2_bound`),
which holds for both and is loose by the ratio that `benchmarks.theory noise` shows. The
mean is ∇J_H only with γ^t (see `core.theory.reinforce`).
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float

from core.theory.reinforce import TabularMDP, enumerated_moments, policy_gradient


def noise_gain(
    score_moments: Float[np.ndarray, " time"],
    *,
    discount: float,
    discounted: bool = True,
) -> float:
    """M, in extra variance = σ² M / K: exact, for any policy and dynamics.

    Args:
        score_moments: E‖w_t‖² for t = 0 … H−1.
        discount: γ, from 0 to 1, 1 included.
        discounted: with the factor γ^t in the estimator, or without.
    """
    powers = float(discount) ** (2.0 * np.arange(len(score_moments)))
    if discounted:
        sums = np.cumsum(powers[::-1])[::-1]  # Σ_{t≤k<H} γ^{2k}
    else:
        sums = np.cumsum(powers)[::-1]  # Σ_{t≤k<H} γ^{2(k−t)}
    return float(score_moments @ sums)


def theorem_2_bound(
    max_score: float,
    *,
    noise_variance: float,
    horizon: int,
    discount: float,
    rollouts: float,
) -> float:
    """The paper's bound on the variance that the noise adds (Theorem 2, eq. 5).

    Args:
        max_score: E max_t‖w_t‖².
        discount: γ; the bound is infinite at 1, which is refused.
    """
    if not 0.0 <= discount < 1.0:
        raise ValueError(f"discount={discount}: the bound needs 0 ≤ γ < 1")
    return noise_variance * horizon * max_score / (rollouts * (1.0 - discount) ** 2)


class NoiseModel(Protocol):
    """σ²(c): the variance of an annotation's noise at a cost c per rollout."""

    def variance(self, cost: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """σ²(c) of each cost."""
        ...

    def stationary(self, fixed: float, gain: float) -> list[float]:
        """The costs where c·(fixed + gain·σ²(c)) has derivative 0."""
        ...


@dataclass(frozen=True)
class PowerLaw:
    """σ²(c) = floor + scale·c^−exponent; the paper's first example has floor 0.

    With a positive floor and exponent 1 it is the paper's third, a noise that money
    cannot remove. An exponent above 1 makes that example's conclusion false: the
    cheapest annotation is then too noisy and the best cost is in between.
    """

    scale: float
    exponent: float
    floor: float = 0.0

    def __post_init__(self) -> None:
        """Refuse parameters that are no noise."""
        if self.scale <= 0.0 or self.exponent <= 0.0 or self.floor < 0.0:
            raise ValueError(
                f"PowerLaw: scale={self.scale} and exponent={self.exponent} must be "
                f"positive, floor={self.floor} not negative"
            )

    def variance(self, cost: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """σ²(c) of each cost; infinite at 0."""
        with np.errstate(divide="ignore"):
            return self.floor + self.scale * cost**-self.exponent

    def stationary(self, fixed: float, gain: float) -> list[float]:
        """c = (gain·scale·(p−1)/(fixed + gain·floor))^{1/p} for p > 1."""
        constant = fixed + gain * self.floor
        if self.exponent <= 1.0 or constant <= 0.0:
            return []
        ratio = gain * self.scale * (self.exponent - 1.0) / constant
        return [ratio ** (1.0 / self.exponent)]


@dataclass(frozen=True)
class BoundedFidelity:
    """σ²(c) = start·(1 − c/exact) up to the cost `exact`, which buys exact rewards.

    The paper's second example. On c·σ²(c) alone both ends are best, c → 0 and `exact`.
    But for any lowest cost above 0 that objective takes `exact`; the total prefers the
    cheap end, where many rollouts also reduce the estimator's own variance.
    """

    start: float
    exact: float

    def __post_init__(self) -> None:
        """Refuse parameters that are no noise."""
        if self.start <= 0.0 or self.exact <= 0.0:
            raise ValueError(
                f"BoundedFidelity: start={self.start} and exact={self.exact} must be "
                "positive"
            )

    def variance(self, cost: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """σ²(c) of each cost; 0 from `exact` on."""
        return self.start * np.maximum(0.0, 1.0 - cost / self.exact)

    def stationary(self, fixed: float, gain: float) -> list[float]:
        """The top of the parabola, and its end, where the slope jumps."""
        slope = gain * self.start
        return [self.exact * (fixed + slope) / (2.0 * slope), self.exact]


class Optimum(NamedTuple):
    """Where the objective is smallest.

    Attributes:
        costs: the minimizing cost; both ends if they tie; the whole range if flat.
        value: the objective there, in variance times budget.
        kind: `"interior"` strictly between the ends.
    """

    costs: tuple[float, ...]
    value: float
    kind: Literal["lowest", "highest", "interior", "both ends", "flat"]


def fidelity_objective(
    model: NoiseModel,
    cost: Float[np.ndarray, " n"],
    *,
    objective: Literal["noise_only", "total"],
    clean_variance: float = 0.0,
    gain: float = 1.0,
) -> Float[np.ndarray, " n"]:
    """Variance times budget B when a rollout's annotations cost c and K = B/c.

    Args:
        objective: `"noise_only"` is the paper's c·σ²(c), the part of the variance that
            noise adds; `"total"` is the whole, c·(V₀ + M σ²(c)).
        clean_variance: V₀ = Var of one rollout's noise-free estimator (`total` only).
        gain: M of `noise_gain` (`total` only).
    """
    fixed, gain = _weights(objective, clean_variance, gain)
    return cost * (fixed + gain * model.variance(cost))


def optimal_fidelity(
    model: NoiseModel,
    *,
    lowest: float,
    highest: float,
    objective: Literal["noise_only", "total"],
    clean_variance: float = 0.0,
    gain: float = 1.0,
) -> Optimum:
    """The cost a rollout's annotations should have, from `lowest` to `highest`.

    Corollary 2 minimizes `noise_only`. Fewer, dearer rollouts also carry more of the
    estimator's own variance V₀, which that leaves out. For a power law with p > 1 it
    says "pay as much as possible" where the total has an interior optimum,
    c* = (M·A·(p−1)/V₀)^{1/p}.

    Arguments as in `fidelity_objective`. Raises `ValueError` unless
    0 ≤ lowest < highest, and if noise is infinite at `lowest`.
    """
    if not 0.0 <= lowest < highest:
        raise ValueError(
            f"lowest={lowest}, highest={highest}: give costs 0 ≤ lowest < highest"
        )
    if not np.isfinite(model.variance(np.array([lowest]))).all():
        raise ValueError(f"lowest={lowest}: the noise is infinite there; raise it")
    fixed, gain = _weights(objective, clean_variance, gain)
    inside = [c for c in model.stationary(fixed, gain) if lowest < c < highest]
    costs = np.array([lowest, *inside, 0.5 * (lowest + highest), highest])
    values = costs * (fixed + gain * model.variance(costs))
    best, tolerance = float(values.min()), 1e-12 * float(np.abs(values).max())
    near = values <= best + tolerance
    if near.all() and not inside:
        return Optimum((lowest, highest), best, "flat")
    if near[0] and near[-1]:
        return Optimum((lowest, highest), best, "both ends")
    if near[0]:
        return Optimum((lowest,), best, "lowest")
    if near[-1]:
        return Optimum((highest,), best, "highest")
    return Optimum((float(costs[int(np.argmin(values))]),), best, "interior")


class MeanSquaredError(NamedTuple):
    """E‖ĝ − ∇J_H‖² of K rollouts (Proposition 2, eqs. 6–7), term by term.

    Attributes:
        variance: Var₁/K, noise included.
        squared_bias: what more rollouts cannot remove.
        reward_bias: ∇B_H, the part of the bias that the rewards' bias makes.
        estimator_bias: the part that is there without it; 0 with γ^t.
    """

    variance: float
    squared_bias: float
    reward_bias: Float[np.ndarray, "s a"]
    estimator_bias: Float[np.ndarray, "s a"]

    @property
    def total(self) -> float:
        """Variance and squared bias together."""
        return self.variance + self.squared_bias


def mean_squared_error(
    mdp: TabularMDP,
    logits: Float[np.ndarray, "s a"],
    *,
    bias: Float[np.ndarray, "s a"],
    rollouts: int,
    noise: float = 0.0,
    discounted: bool = True,
) -> MeanSquaredError:
    """Proposition 2 exactly, by enumeration of the trajectories.

    Args:
        bias: b(s,a), the systematic error of the rewards.
        noise: standard deviation of their independent errors.
    """
    biased = mdp._replace(reward=mdp.reward + bias)
    moments = enumerated_moments(biased, logits, noise=noise, discounted=discounted)
    target = policy_gradient(mdp, logits)
    estimator_bias = policy_gradient(mdp, logits, discounted=discounted) - target
    bias_only = mdp._replace(reward=bias)
    return MeanSquaredError(
        variance=moments.variance / rollouts,
        squared_bias=float(np.sum((moments.mean - target) ** 2)),
        reward_bias=policy_gradient(bias_only, logits, discounted=discounted),
        estimator_bias=estimator_bias,
    )


def _weights(objective: str, clean_variance: float, gain: float) -> tuple[float, float]:
    if clean_variance < 0.0 or gain <= 0.0:
        raise ValueError(
            f"clean_variance={clean_variance} must not be negative, gain={gain} must "
            "be positive"
        )
    return (0.0, 1.0) if objective == "noise_only" else (clean_variance, gain)
