"""The measurements of `benchmarks.theory.noise`, exact and by simulation."""

from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from core.theory import reinforce as rf
from core.theory import reward_noise as rn

STATES, ACTIONS, HORIZON = 3, 2, 6
SEED = 0
NOISE = 1.0
COSTS = (0.05, 1.0)  # range of the annotation cost per rollout
BUDGET = 200.0


class Sizes(NamedTuple):
    """Sizes of the study."""

    discounts: tuple[float, ...]
    samples: int  # rollouts per simulation; the same for all, to compile only once


FULL = Sizes((0.3, 0.45, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99), 2**18)
QUICK = Sizes((0.3, 0.6, 0.9, 0.99), 2**15)

MODELS: dict[str, rn.NoiseModel] = {
    "power law, p = 0.5": rn.PowerLaw(scale=0.5, exponent=0.5),
    "power law, p = 1": rn.PowerLaw(scale=0.5, exponent=1.0),
    "power law, p = 2": rn.PowerLaw(scale=0.5, exponent=2.0),
    "bounded": rn.BoundedFidelity(start=4.0, exact=1.0),
    "floor, p = 1": rn.PowerLaw(scale=0.5, exponent=1.0, floor=1.0),
    "floor, p = 2": rn.PowerLaw(scale=0.05, exponent=2.0, floor=1.0),
}
_BIAS = 0.3


def problem(discount: float) -> tuple[rf.TabularMDP, np.ndarray]:
    """The random MDP of this study and the logits of its policy."""
    return rf.random_mdp(STATES, ACTIONS, discount=discount, horizon=HORIZON, seed=SEED)


def measure_variance(discount: float, sizes: Sizes) -> list[dict[str, Any]]:
    """Both estimators at one discount: added variance and error of the mean."""
    mdp, logits = problem(discount)
    truth = rf.policy_gradient(mdp, logits)
    scores = rf.score_moments(mdp, logits)
    bound = rn.theorem_2_bound(
        rf.expected_max_score(mdp, logits),
        noise_variance=NOISE**2,
        horizon=HORIZON,
        discount=discount,
        rollouts=1,
    )
    rows = []
    for discounted in (True, False):
        clean = rf.enumerated_moments(mdp, logits, discounted=discounted)
        noisy = rf.enumerated_moments(mdp, logits, noise=NOISE, discounted=discounted)
        gain = rn.noise_gain(scores, discount=discount, discounted=discounted)
        samples = rf.sample_estimates(
            mdp,
            logits,
            jax.random.key(1),
            count=sizes.samples,
            noise=NOISE,
            discounted=discounted,
        )
        sampled, _, error = rf.sampled_moments(samples)
        rows.append(
            {
                "discount": discount,
                "discounted": discounted,
                "clean_variance": clean.variance,
                "extra_enumerated": noisy.variance - clean.variance,
                "extra_formula": NOISE**2 * gain,
                "extra_sampled": sampled.variance - clean.variance,
                "extra_sampled_error": error,
                "paper_bound": bound,
                "relative_bias": float(
                    np.linalg.norm(clean.mean - truth) / np.linalg.norm(truth)
                ),
                "relative_bias_sampled": float(
                    np.linalg.norm(sampled.mean - truth) / np.linalg.norm(truth)
                ),
            }
        )
    return rows


def measure_fidelity(mdp: rf.TabularMDP, logits: np.ndarray) -> list[dict[str, Any]]:
    """Corollary 2 as printed and for the total variance, for each noise model."""
    clean, gain = clean_and_gain(mdp, logits)
    rows = []
    objectives: tuple[Literal["noise_only", "total"], ...] = ("noise_only", "total")
    for name, model in MODELS.items():
        row: dict[str, Any] = {"model": name}
        for objective in objectives:
            best = optimum(model, objective, clean, gain)
            row[objective] = {"kind": best.kind, "costs": list(best.costs)}
            # The total variance at this choice.
            row[objective]["total_variance"] = float(
                total_variance(model, np.array(best.costs[-1:]), clean, gain)[0]
                / BUDGET
            )
        rows.append(row)
    return rows


def measure_simulated_fidelity(
    mdp: rf.TabularMDP, logits: np.ndarray, sizes: Sizes
) -> list[dict[str, float]]:
    """Simulated and exact variance at several costs of the p = 2 power law."""
    clean, gain = clean_and_gain(mdp, logits)
    model, rows = MODELS["power law, p = 2"], []
    truth = rf.policy_gradient(mdp, logits)
    for index, cost in enumerate(np.geomspace(*COSTS, 8)):
        rollouts = round(BUDGET / cost)
        samples = rf.sample_estimates(
            mdp,
            logits,
            jax.random.key(100 + index),
            count=sizes.samples,
            noise=float(model.variance(np.array([cost]))[0]) ** 0.5,
        )
        exact = total_variance(model, np.array([cost]), clean, gain)[0] / BUDGET
        errors = _squared_errors(samples, rollouts, truth)
        rows.append(
            {"cost": float(cost), "rollouts": rollouts, "exact": exact, **errors}
        )
    return rows


def measure_bias(
    mdp: rf.TabularMDP, logits: np.ndarray, sizes: Sizes
) -> list[dict[str, Any]]:
    """Proposition 2: mean squared error of K rollouts with biased rewards."""
    truth, rows = rf.policy_gradient(mdp, logits), []
    tables = {
        "random": np.random.default_rng(1).normal(size=logits.shape),
        "constant": np.ones(logits.shape),
    }
    for index, (name, table) in enumerate(tables.items()):
        table = _BIAS * table
        one = rn.mean_squared_error(mdp, logits, bias=table, rollouts=1, noise=NOISE)
        samples = rf.sample_estimates(
            mdp,
            logits,
            jax.random.key(200 + index),
            count=sizes.samples,
            noise=NOISE,
            bias=table,
        )
        for power in range(11):
            rollouts = 2**power
            variance = one.variance / rollouts
            rows.append(
                {
                    "bias": name,
                    "rollouts": rollouts,
                    "variance": variance,
                    "squared_bias": one.squared_bias,
                    "exact": variance + one.squared_bias,
                    **_squared_errors(samples, rollouts, truth),
                }
            )
    return rows


def _squared_errors(samples: Any, rollouts: int, truth: np.ndarray) -> dict[str, float]:
    """Mean of ‖ĝ − truth‖² over disjoint groups of rollouts, and its standard error."""
    values = np.asarray(samples, np.float64)
    groups = len(values) // rollouts
    values = values[: groups * rollouts].reshape(groups, rollouts, *truth.shape)
    squares = np.sum((values.mean(axis=1) - truth) ** 2, axis=(1, 2))
    error = float(squares.std(ddof=1) / groups**0.5)
    return {"sampled": float(squares.mean()), "sampled_error": error}


def clean_and_gain(mdp: rf.TabularMDP, logits: np.ndarray) -> tuple[float, float]:
    """V₀ and M of the estimator with γ^t."""
    clean = rf.enumerated_moments(mdp, logits).variance
    scores = rf.score_moments(mdp, logits)
    return clean, rn.noise_gain(scores, discount=mdp.discount)


def optimum(
    model: rn.NoiseModel,
    objective: Literal["noise_only", "total"],
    clean: float,
    gain: float,
) -> rn.Optimum:
    """The optimal cost within `COSTS`."""
    return rn.optimal_fidelity(
        model,
        lowest=COSTS[0],
        highest=COSTS[1],
        objective=objective,
        clean_variance=clean,
        gain=gain,
    )


def total_variance(
    model: rn.NoiseModel, cost: np.ndarray, clean: float, gain: float
) -> np.ndarray:
    """Total variance times budget at each cost."""
    return rn.fidelity_objective(
        model, cost, objective="total", clean_variance=clean, gain=gain
    )
