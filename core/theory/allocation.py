"""How to split a budget between dynamics and reward samples (Theorem 1).

With ε_f = A_d n_d^-α, ε_r = A_r n_r^-β and costs c_d, c_r a sample, Lemma 1's bound is
proportional to κ ε_f + ε_r, and on the line c_d n_d + c_r n_r = B its minimum satisfies

    n_d / n_r = (α / β) κ (c_r / c_d) (ε_f / ε_r).                             (4)

The errors on the right depend on the counts, so (4) is an equation, not a formula;
`optimal_allocation` solves it.

Units. Lemma 1 bounds by errors, the paper's Section 4.1 fits mean *squared* errors and
inserts them. Halved exponents and the roots of the scales give another answer, so both
units are explicit here.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from core.theory.powerlaw import PowerLaw

ErrorUnit = Literal["mse", "rmse"]
"""What a law's ε is: a mean squared error, or one in the units of the bound."""


class Costs(NamedTuple):
    """Cost of one sample; the unit is the budget's."""

    dynamics: float
    reward: float


class Problem(NamedTuple):
    """One allocation problem, in the units in which it is minimised."""

    dynamics: PowerLaw
    reward: PowerLaw
    multiplier: float
    costs: Costs
    budget: float


class Allocation(NamedTuple):
    """Where the bound is smallest.

    Attributes:
        problem: what was minimised, after conversion of units.
        dynamics_samples: n_d, a real number.
        reward_samples: n_r, a real number.
        dynamics_error: ε_f at n_d.
        reward_error: ε_r at n_r.
        share: the part of the budget spent on dynamics samples.
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
        """log of n_d / n_r over the right side of (4): 0 at the optimum."""
        predicted = ratio_formula(
            exponents=(self.problem.dynamics.exponent, self.problem.reward.exponent),
            multiplier=self.problem.multiplier,
            costs=self.problem.costs,
            errors=(self.dynamics_error, self.reward_error),
        )
        return float(np.log(self.ratio / predicted))


class Sensitivity(NamedTuple):
    """d log(n_d / n_r) at the optimum, by d log of each given quantity.

    Attributes:
        multiplier: by κ, always positive: a longer horizon or steeper learned maps
            shift the budget towards dynamics samples.
        dynamics_cost: by c_d.
        reward_cost: by c_r.
        budget: by B; of the sign of β - α.
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
        dynamics: the law of ε_f.
        reward: the law of ε_r.
        unit: what the two laws measure.
        multiplier: κ, see `bounds.dynamics_multiplier`.
        costs: c_d and c_r.
        budget: B.
        bound_unit: what enters the bound. Lemma 1 is about "rmse"; the paper's own
            experiment inserts its fits of "mse" as they are.

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
        """log of what money gains in dynamics samples over reward samples, at logit x.

        Its slope lies between -(α + 1) and -(β + 1), so it has one zero, and no
        farther from 0 than |excess(0)| over the smaller of α + 1 and β + 1.
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
    """n_d / n_r where α = β: (κ A_d c_r / (A_r c_d))^{1 / (1 + α)}, for any budget."""
    gain = multiplier * scales[0] * costs.reward / (scales[1] * costs.dynamics)
    return gain ** (1 / (1 + exponent))


def sensitivity(allocation: Allocation) -> Sensitivity:
    """How the optimal ratio answers, from the implicit function theorem.

    With s the share of the budget that goes to dynamics samples, all elasticities have
    the denominator D = (1 + α)(1 - s) + (1 + β) s. The paper says that a cheaper sample
    is always bought more often. That needs |α - β| < 1: with β - α > 1 and a small
    share, lowering the price of reward samples *raises* n_d / n_r.
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
    """d log κ / d log γ = 1 / (1 - γ c): what a longer horizon does to Theorem 1's κ.

    Times `Sensitivity.multiplier` it is the elasticity of n_d / n_r in the discount.

    Raises:
        ValueError: γ c is not below 1.
    """
    if not 0 <= discount * contraction < 1:
        raise ValueError(
            f"discount · contraction is {discount * contraction:g}, but Theorem 1 "
            "needs it in [0, 1)"
        )
    return 1 / (1 - discount * contraction)


def _log_counts(x: float, problem: Problem) -> tuple[float, float]:
    """log n_d and log n_r where x is the logit of the share of the budget."""
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
