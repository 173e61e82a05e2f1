"""The linear group: a value that is linear in the errors of dynamics and reward.

The scalar system that attains Lemma 1, with constant errors θ_f and θ_r:

    s' = L_f (s + a) + θ_f,   r = L_r (s + a) + θ_r,   a = L_π s,   s_0 = 0

Its return is linear in both, so that equation (4) must hold for measured sensitivities
*and* for the global constants: an algebraic check. The group has a grid of its own over
L_f, L_π and γ. Lemma 1 needs γ·L_f·(1 + L_π) < 1, which is enforced: combinations
without it are not in the grid. Those within `MARGIN` of 1 are counted, and excluded
from the medians as boundary cases, as the paper's filter does.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from core.theory.allocation import Costs, ratio_formula
from core.theory.bounds import LipschitzConstants, dynamics_multiplier
from core.theory.powerlaw import PowerLaw

DYNAMICS_SLOPES = (0.3, 0.6, 0.9)
POLICY_SLOPES = (0.2, 0.5, 0.8)
DISCOUNTS = (0.6, 0.8, 0.95)
REWARD_SLOPE = 1.0
SIGMAS = (0.5, 2.0)
MARGIN = 0.02
"""A contraction γc above 1 − MARGIN is a boundary case."""


class Scalar(NamedTuple):
    """L_f, L_π and γ of one system."""

    dynamics: float
    policy: float
    discount: float

    @property
    def contraction(self) -> float:
        """γc."""
        return self.discount * self.dynamics * (1 + self.policy)

    @property
    def constants(self) -> LipschitzConstants:
        """Of Lemma 1."""
        return LipschitzConstants.joint(
            dynamics=self.dynamics, reward=REWARD_SLOPE, policy=self.policy
        )

    def value(self, dynamics_error: float, reward_error: float) -> float:
        """The return, by simulation until what is left is below 1e-14."""
        slowest = max(self.discount, self.contraction)
        steps = math.ceil(math.log(1e-14) / math.log(slowest))
        state, weight, total = 0.0, 1.0, 0.0
        for _ in range(steps):
            both = (1 + self.policy) * state
            total += weight * (REWARD_SLOPE * both + reward_error)
            state, weight = (
                self.dynamics * both + dynamics_error,
                weight * self.discount,
            )
        return total


def systems() -> list[Scalar]:
    """The grid, with γc < 1 enforced."""
    grid = itertools.product(DYNAMICS_SLOPES, POLICY_SLOPES, DISCOUNTS)
    return [each for row in grid if (each := Scalar(*row)).contraction < 1]


def best_counts(
    gap: Callable[[float, float], float],
    *,
    budget: float,
    reward_cost: float,
    fewest: float,
) -> tuple[float, float]:
    """(n_d, n_r) of the smallest gap on the budget line; n_d is at least `fewest`."""

    def counts(x: float) -> tuple[float, float]:
        share = float(expit(x))
        return budget * share, budget * (1 - share) / reward_cost

    best: Any = minimize_scalar(
        lambda x: gap(*counts(x)),
        bounds=(float(logit(fewest / budget)), 12.0),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return counts(float(best.x))


def linear_rows(
    *,
    exponents: tuple[tuple[float, float], ...],
    reward_costs: tuple[float, ...],
    budget: float,
    largest_error: float,
    step: float,
) -> list[dict[str, Any]]:
    """A row for each configuration; `log_ratio` is ℓ of the measured sensitivities.

    Args:
        exponents: pairs (a, b) of ε_f = σ·n_d^-a and ε_r = n_r^-b.
        largest_error: upper limit of ε_f.
        step: of finite differences, as a fraction of the error.
    """
    grid = itertools.product(systems(), SIGMAS, reward_costs, exponents)
    rows = []
    for system, sigma, cost, (a, b) in grid:
        dynamics, reward = PowerLaw(sigma, a), PowerLaw(1.0, b)
        exact = system.value(0.0, 0.0)

        def slopes(n_d: float, n_r: float) -> tuple[float, float]:
            off = step * dynamics(n_d), step * reward(n_r)  # noqa: B023
            in_f = abs(system.value(off[0], 0.0) - exact) / off[0]  # noqa: B023
            return in_f, abs(system.value(0.0, off[1]) - exact) / off[1]  # noqa: B023

        # The value is linear: its slopes anywhere give the gap of any errors.
        unit = system.value(1.0, 0.0) - exact, system.value(0.0, 1.0) - exact
        n_d, n_r = best_counts(
            lambda n_d, n_r: unit[0] * dynamics(n_d) + unit[1] * reward(n_r),  # noqa: B023
            budget=budget,
            reward_cost=cost,
            fewest=(sigma / largest_error) ** (1 / a),
        )
        in_f, in_r = slopes(n_d, n_r)
        kappa = dynamics_multiplier(system.constants, discount=system.discount)
        predicted, by_constants = (
            ratio_formula(
                exponents=(a, b),
                multiplier=multiplier,
                costs=Costs(1.0, cost),
                errors=(dynamics(n_d), reward(n_r)),
            )
            for multiplier in (in_f / in_r, kappa)
        )
        row: dict[str, Any] = {"group": "linear dynamics", "L_f": system.dynamics}
        row |= {"L_pi": system.policy, "gamma": system.discount}
        row |= {"contraction": system.contraction}
        row |= {"boundary_excluded": system.contraction > 1 - MARGIN}
        row |= {"sigma": sigma, "reward_cost": cost, "alpha_d": a, "alpha_r": b}
        row |= {"S_f": in_f, "S_r": in_r, "K": kappa}
        row |= {"predicted": predicted, "predicted_global": by_constants}
        row |= {
            "realized": n_d / n_r,
            "log_ratio": float(np.log(predicted * n_r / n_d)),
        }
        rows.append(row)
    return rows
