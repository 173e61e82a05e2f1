"""The optimal split of a budget between dynamics and reward samples (Theorem 1).

With errors ε_f = A_d n_d^-α, ε_r = A_r n_r^-β and costs c_d, c_r per sample, Lemma 1's
bound is proportional to κ ε_f + ε_r. Its minimum under c_d n_d + c_r n_r = B satisfies

    n_d / n_r = (α / β) κ (c_r / c_d) (ε_f / ε_r).                             (4)

The errors on the right depend on the sample counts, so (4) is an implicit equation;
`optimal_allocation` solves it.

Units: Lemma 1 is stated in errors, but the paper's Section 4.1 fits mean *squared*
errors and inserts them. Taking roots halves the exponents and changes the answer, so
the unit is an explicit argument here.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from core.theory.powerlaw import PowerLaw

ErrorUnit = Literal["mse", "rmse"]
"""Unit of ε: mean squared error, or root mean squared error as in the bound."""


class Costs(NamedTuple):
    """Cost of one sample, in the unit of the budget."""

    dynamics: float
    reward: float


class Problem(NamedTuple):
    """One allocation problem, in the units in which it is minimized."""

    dynamics: PowerLaw
    reward: PowerLaw
    multiplier: float
    costs: Costs
    budget: float


class Allocation(NamedTuple):
    """The minimizer of the bound.

    Attributes:
        problem: the minimized problem, after conversion of units.
        dynamics_samples: n_d, not rounded to an integer.
        reward_samples: n_r, not rounded to an integer.
        dynamics_error: ε_f at n_d.
        reward_error: ε_r at n_r.
        share: fraction of the budget spent on dynamics samples.
    """

    problem: Problem
    dynamics_samples: float
    reward_samples: float
    dynamics_error: float
    reward_error: float
    share: float

    @property
    def ratio(self) -> float:
        """n_d / n_r."""
        return self.dynamics_samples / self.reward_samples

    @property
    def stationarity(self) -> float:
        """log((n_d / n_r) / right side of (4)): 0 at the optimum."""
        predicted = ratio_formula(
            exponents=(self.problem.dynamics.exponent, self.problem.reward.exponent),
            multiplier=self.problem.multiplier,
            costs=self.problem.costs,
            errors=(self.dynamics_error, self.reward_error),
        )
        return float(np.log(self.ratio / predicted))


class Sensitivity(NamedTuple):
    """Elasticities of the optimal n_d / n_r: d log(n_d / n_r) / d log(quantity).

    Attributes:
        multiplier: in κ; always positive: a longer horizon or larger Lipschitz
            constants shift the budget towards dynamics samples.
        dynamics_cost: in c_d.
        reward_cost: in c_r.
        budget: in B; has the sign of β - α.
    """

    multiplier: float
    dynamics_cost: float
    reward_cost: float
    budget: float


def ratio_formula(
    *,
    exponents: tuple[float, float],
    multiplier: float,
    costs: Costs,
    errors: tuple[float, float],
) -> float:
    """The right side of (4), from (α, β), κ, the costs and (ε_f, ε_r)."""
    alpha, beta = exponents
    dynamics_error, reward_error = errors
    costs_ratio = costs.reward / costs.dynamics
    return alpha / beta * multiplier * costs_ratio * dynamics_error / reward_error


def optimal_allocation(
    dynamics: PowerLaw,
    reward: PowerLaw,
    *,
    unit: ErrorUnit,
    multiplier: float,
    costs: Costs,
    budget: float,
    bound_unit: ErrorUnit = "rmse",
) -> Allocation:
    """Solves Theorem 1.

    Args:
        dynamics: scaling law of ε_f.
        reward: scaling law of ε_r.
        unit: unit of both laws.
        multiplier: κ, see `bounds.dynamics_multiplier`.
        costs: c_d and c_r.
        budget: B.
        bound_unit: unit of the errors in the bound: "rmse" in Lemma 1; the paper's
            experiment inserts its "mse" fits directly.

    Raises:
        ValueError: a number is not positive and finite, or a unit is unknown.
    """
    problem = Problem(
        _converted(dynamics, unit, bound_unit),
        _converted(reward, unit, bound_unit),
        multiplier,
        costs,
        budget,
    )
    _check(problem)
    alpha, beta = problem.dynamics.exponent, problem.reward.exponent
    constant = np.log(alpha * multiplier * problem.dynamics.scale / costs.dynamics)
    constant -= np.log(beta * problem.reward.scale / costs.reward)

    def excess(x: float) -> float:
        """log(marginal gain of dynamics spending / of reward spending) at logit x.

        Its slope lies between -(α + 1) and -(β + 1), so it has exactly one root, at
        most |excess(0)| / min(α + 1, β + 1) away from 0.
        """
        log_dynamics, log_reward = _log_counts(x, problem)
        return constant - (alpha + 1) * log_dynamics + (beta + 1) * log_reward

    reach = abs(excess(0.0)) / (min(alpha, beta) + 1) + 1e-9
    x: Any = brentq(excess, -reach, reach, xtol=1e-14, rtol=4 * np.finfo(float).eps)
    n_d, n_r = np.exp(_log_counts(x, problem)).tolist()
    return Allocation(
        problem=problem,
        dynamics_samples=n_d,
        reward_samples=n_r,
        dynamics_error=problem.dynamics(n_d),
        reward_error=problem.reward(n_r),
        share=float(expit(x)),
    )


def closed_form_ratio(
    *, exponent: float, multiplier: float, costs: Costs, scales: tuple[float, float]
) -> float:
    """n_d / n_r if α = β: (κ A_d c_r / (A_r c_d))^{1 / (1 + α)}, for any budget."""
    gain = multiplier * scales[0] * costs.reward / (scales[1] * costs.dynamics)
    return gain ** (1 / (1 + exponent))


def sensitivity(allocation: Allocation) -> Sensitivity:
    """Elasticities of the optimal ratio, by the implicit function theorem.

    With s the share of the budget spent on dynamics samples, all elasticities have the
    denominator D = (1 + α)(1 - s) + (1 + β) s. The paper claims that a lower sample
    cost always shifts the split towards that sample. This needs |α - β| < 1: for
    β - α > 1 and small s, cheaper reward samples *raise* n_d / n_r.
    """
    problem, share = allocation.problem, allocation.share
    alpha, beta = problem.dynamics.exponent, problem.reward.exponent
    denominator = (1 + alpha) * (1 - share) + (1 + beta) * share
    return Sensitivity(
        multiplier=1 / denominator,
        dynamics_cost=alpha / denominator - 1,
        reward_cost=1 - beta / denominator,
        budget=(beta - alpha) / denominator,
    )


def horizon_elasticity(*, discount: float, contraction: float) -> float:
    """d log κ / d log γ = 1 / (1 - γ c): the effect of a longer horizon on κ.

    Multiplied by `Sensitivity.multiplier` it is the elasticity of n_d / n_r in γ.

    Raises:
        ValueError: γ c is not in [0, 1).
    """
    if not 0 <= discount * contraction < 1:
        raise ValueError(
            f"discount · contraction is {discount * contraction:g}, but Theorem 1 "
            "needs it in [0, 1)"
        )
    return 1 / (1 - discount * contraction)


def _log_counts(x: float, problem: Problem) -> tuple[float, float]:
    """log n_d and log n_r for x, the logit of the budget share of dynamics."""
    log_budget = np.log(problem.budget)
    return (
        float(log_budget - np.log(problem.costs.dynamics) - np.logaddexp(0, -x)),
        float(log_budget - np.log(problem.costs.reward) - np.logaddexp(0, x)),
    )


def _converted(law: PowerLaw, unit: ErrorUnit, wanted: ErrorUnit) -> PowerLaw:
    for name, value in (("unit", unit), ("bound_unit", wanted)):
        if value not in ("mse", "rmse"):
            raise ValueError(f"{name}={value!r} is unknown: use 'mse' or 'rmse'")
    if unit == wanted:
        return law
    return law.root() if wanted == "rmse" else law.square()


def _check(problem: Problem) -> None:
    numbers = {
        "dynamics.scale": problem.dynamics.scale,
        "dynamics.exponent": problem.dynamics.exponent,
        "reward.scale": problem.reward.scale,
        "reward.exponent": problem.reward.exponent,
        "multiplier": problem.multiplier,
        "costs.dynamics": problem.costs.dynamics,
        "costs.reward": problem.costs.reward,
        "budget": problem.budget,
    }
    for name, value in numbers.items():
        if not (value > 0 and np.isfinite(value)):
            raise ValueError(f"{name}={value:g} must be positive and finite")
