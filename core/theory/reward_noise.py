"""REINFORCE with noisy or biased rewards (*On Training in Imagination*, section 5).

Theorem 2: reward noise leaves the estimator's mean unchanged and adds variance.
Corollary 2: the optimal cost per reward annotation under a fixed budget.
Proposition 2: a reward bias biases the gradient, for any number of rollouts.

**Theorem 2, exact form.** Scores are martingale differences (E[w_t | past] = 0), so
cross terms vanish and reward noise of variance σ² adds exactly the variance

    (σ²/K) Σ_t E‖w_t‖² Σ_{t≤k<H} γ^{2k}           with γ^t
    (σ²/K) Σ_t E‖w_t‖² Σ_{t≤k<H} γ^{2(k−t)}       without

The paper's upper bound σ² H E max_t‖w_t‖² / (K(1−γ)²) (`theorem_2_bound`) holds for
both; `benchmarks.theory noise` measures how loose it is. The mean is ∇J_H only with γ^t
(see `core.theory.reinforce`).
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
    """M in (added variance) = σ² M / K; exact for any policy and dynamics.

    Args:
        score_moments: E‖w_t‖² for t = 0 … H−1.
        discount: γ in [0, 1].
        discounted: whether the estimator has the factor γ^t.
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
    """The paper's bound on the variance added by reward noise (Theorem 2, eq. 5).

    Args:
        max_score: E max_t‖w_t‖².
        discount: γ in [0, 1).

    Raises `ValueError` for another discount.
    """
    if not 0.0 <= discount < 1.0:
        raise ValueError(f"discount={discount}: the bound needs 0 ≤ γ < 1")
    return noise_variance * horizon * max_score / (rollouts * (1.0 - discount) ** 2)


class NoiseModel(Protocol):
    """σ²(c): the variance of the reward noise at annotation cost c per rollout."""

    def variance(self, cost: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """σ²(c) at each cost."""
        ...

    def stationary(self, fixed: float, gain: float) -> list[float]:
        """The stationary points and kinks of c·(fixed + gain·σ²(c))."""
        ...


@dataclass(frozen=True)
class PowerLaw:
    """σ²(c) = floor + scale·c^−exponent; floor 0 is the paper's first example.

    A positive floor with exponent 1 is its third example, an irreducible noise. For an
    exponent above 1 that example's conclusion (the lowest cost is optimal) is false:
    the optimum is interior.
    """

    scale: float
    exponent: float
    floor: float = 0.0

    def __post_init__(self) -> None:
        """Check the parameters."""
        if self.scale <= 0.0 or self.exponent <= 0.0 or self.floor < 0.0:
            raise ValueError(
                f"PowerLaw: scale={self.scale} and exponent={self.exponent} must be "
                f"positive, floor={self.floor} not negative"
            )

    def variance(self, cost: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """σ²(c) at each cost; infinite at 0."""
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
    """σ²(c) = start·(1 − c/exact) for c ≤ `exact`, the cost of noise-free rewards.

    The paper's second example. c·σ²(c) is minimal at both ends, c → 0 and `exact`; with
    a lowest cost above 0 only at `exact`. The total variance prefers the low end, where
    many rollouts also reduce the estimator's own variance.
    """

    start: float
    exact: float

    def __post_init__(self) -> None:
        """Check the parameters."""
        if self.start <= 0.0 or self.exact <= 0.0:
            raise ValueError(
                f"BoundedFidelity: start={self.start} and exact={self.exact} must be "
                "positive"
            )

    def variance(self, cost: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """σ²(c) at each cost; 0 for c ≥ `exact`."""
        return self.start * np.maximum(0.0, 1.0 - cost / self.exact)

    def stationary(self, fixed: float, gain: float) -> list[float]:
        """The maximum of the parabola, and its end, where the slope jumps."""
        slope = gain * self.start
        return [self.exact * (fixed + slope) / (2.0 * slope), self.exact]


class Optimum(NamedTuple):
    """The minimizer of the objective.

    Attributes:
        costs: the optimal cost; both ends if they tie or if the objective is flat.
        value: the minimum, as variance times budget.
        kind: where it is; `"interior"` is strictly between the ends.
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
    """Variance times budget B for annotation cost c per rollout, with K = B/c.

    Args:
        objective: `"noise_only"` is the paper's c·σ²(c), the variance added by noise;
            `"total"` is the total variance, c·(V₀ + M σ²(c)).
        clean_variance: V₀, the variance of the noise-free one-rollout estimator
            (`total` only).
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
    """The optimal annotation cost per rollout in [lowest, highest].

    Corollary 2 minimizes `noise_only`. This ignores the estimator's own variance V₀,
    which grows with the cost because the budget buys fewer rollouts. For a power law
    with p > 1 `noise_only` is minimal at `highest`, but the total has an interior
    optimum c* = (M·A·(p−1)/V₀)^{1/p}.

    Arguments as in `fidelity_objective`. Raises `ValueError` unless
    0 ≤ lowest < highest, and if the noise is infinite at `lowest`.
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
        variance: Var₁/K, including reward noise.
        squared_bias: squared norm of the bias, which does not depend on K.
        reward_bias: ∇B_H, the bias caused by the reward bias.
        estimator_bias: the bias of the estimator itself; 0 with γ^t.
    """

    variance: float
    squared_bias: float
    reward_bias: Float[np.ndarray, "s a"]
    estimator_bias: Float[np.ndarray, "s a"]

    @property
    def total(self) -> float:
        """Variance plus squared bias."""
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
        bias: b(s,a), the reward bias.
        noise: standard deviation σ of the independent reward noise.
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
