"""Theorem 1, power-law fits, and the acceptance of Section 4.2."""

from typing import Any

import jax
import numpy as np
import pytest

from benchmarks.theory.allocation import linear, study
from core.theory.allocation import (
    Costs,
    closed_form_ratio,
    horizon_elasticity,
    optimal_allocation,
    sensitivity,
)
from core.theory.bounds import (
    LipschitzConstants,
    dynamics_coefficient,
    dynamics_multiplier,
)
from core.theory.powerlaw import Fit, PowerLaw, bootstrap, fit, local_slopes


def draws(number, *, equal=False):
    rng = np.random.default_rng(0)
    for _ in range(number):
        alpha, beta = rng.uniform(0.05, 2.0, 2)
        scales = np.exp(rng.uniform(-3, 5, 2))
        yield {
            "dynamics": PowerLaw(float(scales[0]), float(alpha)),
            "reward": PowerLaw(float(scales[1]), float(alpha if equal else beta)),
            "multiplier": float(np.exp(rng.uniform(-3, 5))),
            "costs": Costs(*np.exp(rng.uniform(-2, 3, 2)).tolist()),
            "budget": float(np.exp(rng.uniform(2, 15))),
        }


def bound_at(problem, n_d, n_r):
    return problem["multiplier"] * problem["dynamics"](n_d) + problem["reward"](n_r)


def test_theorem_1_is_stationary_and_a_minimum():
    for problem in draws(300):
        best = optimal_allocation(**problem, unit="rmse")
        assert abs(best.stationarity) < 1e-9
        costs = problem["costs"]
        spent = costs.dynamics * best.dynamics_samples
        assert spent + costs.reward * best.reward_samples == pytest.approx(
            problem["budget"], rel=1e-12
        )
        assert best.share == pytest.approx(spent / problem["budget"], rel=1e-12)
        least = bound_at(problem, best.dynamics_samples, best.reward_samples)
        for factor in (0.9, 1.1):  # as far as the budget goes
            n_d = best.dynamics_samples * factor
            n_r = (problem["budget"] - costs.dynamics * n_d) / costs.reward
            if n_r > 0:
                assert bound_at(problem, n_d, n_r) >= least * (1 - 1e-12)


def test_closed_form_at_equal_exponents():
    for problem in draws(100, equal=True):
        best = optimal_allocation(**problem, unit="rmse")
        closed = closed_form_ratio(
            exponent=problem["dynamics"].exponent,
            multiplier=problem["multiplier"],
            costs=problem["costs"],
            scales=(problem["dynamics"].scale, problem["reward"].scale),
        )
        assert best.ratio == pytest.approx(closed, rel=1e-9)


def test_units_change_the_answer():
    """Fits of squared errors enter as their roots, unless asked otherwise."""
    dynamics, reward = PowerLaw(4.0, 0.6), PowerLaw(0.04, 0.6)
    rest: Any = {"multiplier": 1.0, "costs": Costs(1.0, 1.0), "budget": 1e4}
    printed = optimal_allocation(
        dynamics, reward, unit="mse", bound_unit="mse", **rest
    ).ratio
    right = optimal_allocation(dynamics, reward, unit="mse", **rest).ratio
    assert printed == pytest.approx(100 ** (1 / 1.6))
    assert right == pytest.approx(10 ** (1 / 1.3))
    roots = optimal_allocation(dynamics.root(), reward.root(), unit="rmse", **rest)
    assert roots.ratio == pytest.approx(right)
    back = optimal_allocation(
        dynamics.root(), reward.root(), unit="rmse", bound_unit="mse", **rest
    )
    assert back.ratio == pytest.approx(printed)


def test_sensitivities_are_the_derivatives():
    h = 1e-4
    for problem in draws(50):
        found = sensitivity(optimal_allocation(**problem, unit="rmse"))

        def moved(name, problem=problem):
            logs = []
            for by in (np.exp(h), np.exp(-h)):
                changed = dict(problem)
                if name.endswith("cost"):
                    part = name.removesuffix("_cost")
                    value = getattr(problem["costs"], part) * by
                    changed["costs"] = problem["costs"]._replace(**{part: value})
                else:
                    changed[name] = problem[name] * by
                logs.append(np.log(optimal_allocation(**changed, unit="rmse").ratio))
            return (logs[0] - logs[1]) / (2 * h)

        for name, value in found._asdict().items():
            assert value == pytest.approx(moved(name), abs=1e-6)


def test_a_longer_horizon_buys_dynamics():
    constants = LipschitzConstants.joint(dynamics=0.4, reward=1.0, policy=1.0)
    values = [
        dynamics_multiplier(constants, discount=g) for g in (0.9 - 1e-6, 0.9 + 1e-6)
    ]
    slope = np.log(values[1] / values[0]) / np.log((0.9 + 1e-6) / (0.9 - 1e-6))
    elasticity = horizon_elasticity(discount=0.9, contraction=constants.contraction)
    assert elasticity == pytest.approx(slope, rel=1e-6)
    with pytest.raises(ValueError, match="needs it in"):
        horizon_elasticity(discount=0.9, contraction=1.2)


def test_a_cheaper_sample_is_not_always_bought_more():
    """The paper's rule of direction needs |α - β| < 1."""
    rest: Any = {"multiplier": 1.0, "budget": 1e3}
    dynamics, reward = PowerLaw(1e-3, 0.2), PowerLaw(50.0, 2.0)

    def ratio(cost):
        costs = Costs(1.0, cost)
        return optimal_allocation(dynamics, reward, unit="rmse", costs=costs, **rest)

    assert ratio(10.0).share < 0.2
    assert ratio(9.0).ratio > ratio(10.0).ratio  # cheaper rewards, fewer of them
    assert sensitivity(ratio(10.0)).reward_cost < 0
    for problem in draws(100):
        if abs(problem["dynamics"].exponent - problem["reward"].exponent) < 1:
            found = sensitivity(optimal_allocation(**problem, unit="rmse"))
            assert found.reward_cost > 0 > found.dynamics_cost


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": 0.0}, "budget=0 must be positive"),
        ({"costs": Costs(1.0, -1.0)}, r"costs\.reward=-1"),
    ],
)
def test_allocation_refuses(change, message):
    problem = {**next(draws(1)), "unit": "rmse", **change}
    with pytest.raises(ValueError, match=message):
        optimal_allocation(**problem)


def test_fit_finds_the_law_and_its_uncertainty():
    n = np.array([100.0, 300.0, 1000.0, 3000.0])
    law = PowerLaw(3.0, 0.7)
    exact = np.repeat(law(n)[:, None], 5, axis=1)
    found = fit(n, exact)
    assert isinstance(found, Fit) and found.r_squared == pytest.approx(1.0)
    assert found.law == pytest.approx(law)
    np.testing.assert_allclose(local_slopes(n, exact), 0.7)
    assert law.root() == pytest.approx((3.0**0.5, 0.35))
    assert law.root().square() == pytest.approx(law)

    noise = np.random.default_rng(0).lognormal(0, 0.2, (4, 40))
    noisy = law(n)[:, None] * noise / np.mean(noise)
    interval = bootstrap(n, noisy, key=jax.random.key(0)).exponent
    assert interval.low < fit(n, noisy).law.exponent < interval.high
    # The slope's standard error, from those of the four log means.
    x = np.log(n) - np.log(n).mean()
    expected = 0.2 / 40**0.5 / np.sum(x**2) ** 0.5
    assert interval.standard_error == pytest.approx(expected, rel=0.3)
    assert fit(n, noisy).r_squared < 1
    floored = exact + 0.01
    slopes = local_slopes(n, floored)
    assert np.all(np.diff(slopes) < 0)


def test_fit_refuses():
    with pytest.raises(ValueError, match="two different"):
        fit(np.array([10.0, 10.0]), np.ones((2, 3)))
    with pytest.raises(ValueError, match="smallest is 0"):
        fit(np.array([10.0, 20.0]), np.array([[1.0], [0.0]]))
    with pytest.raises(ValueError, match="resamples=1"):
        bootstrap(
            np.array([1.0, 2.0]), np.ones((2, 2)), key=jax.random.key(0), resamples=1
        )


def test_section_4_2_parametric_groups():
    grid = [
        (theta, sigma, cost, exponents)
        for theta in study.THETAS
        for sigma in (0.5, 2.0)
        for cost in study.REWARD_COSTS
        for exponents in study.EXPONENTS
    ]
    median = {}
    for name, value in study.VALUES.items():
        rows = np.array([study.parametric(value, *row) for row in grid])
        median[name] = np.median(np.abs(np.log(rows[:, 0] / rows[:, 1])))
    assert median["linear"] < 1e-5
    assert median["tanh"] < 0.03 and median["sin"] < 0.03
    assert 0.01 < median["quadratic"] < 0.1
    control = np.array(
        [
            study.parametric(study.VALUES["quadratic"], *row, slope=2 * study.DOMAIN)
            for row in grid
        ]
    )
    assert np.median(np.abs(np.log(control[:, 0] / control[:, 1]))) > 0.8


LINEAR: dict[str, Any] = {  # as the study has them
    "exponents": study.EXPONENTS,
    "reward_costs": study.REWARD_COSTS,
    "budget": study.BUDGET,
    "largest_error": study.LARGEST_ERROR,
    "step": study.STEP,
}


def test_the_linear_group_has_a_grid_with_its_constraint_enforced():
    rows = linear.linear_rows(**LINEAR)
    assert all(0 < row["contraction"] < 1 for row in rows)
    # γ L_f (1 + L_π) is 1.539 at most: the constraint leaves some out.
    assert len(linear.systems()) == 21 < 3 * 3 * 3
    assert len(rows) == 21 * 2 * 3 * 3
    for row in rows:
        assert abs(row["log_ratio"]) < 1e-5
        # The value is linear: Lemma 1's constants are the sensitivities.
        assert row["S_f"] / row["S_r"] == pytest.approx(row["K"], rel=1e-9)
        assert row["predicted_global"] == pytest.approx(row["predicted"], rel=1e-9)
        assert row["sigma"] * _counts(row)[0] ** -row["alpha_d"] <= 0.3 + 1e-9


def _counts(row):
    """n_d and n_r that spend the budget at the realized ratio."""
    n_r = study.BUDGET / (row["realized"] + row["reward_cost"])
    return row["realized"] * n_r, n_r


@pytest.mark.parametrize(
    "system", [(0.6, 0.5, 0.95), (0.9, 0.8, 0.6)], ids=["contracting", "γc = 0.97"]
)
def test_the_linear_groups_value_has_lemma_1s_coefficients(system):
    found = linear.Scalar(*system)
    base = found.value(0.0, 0.0)
    assert base == 0.0
    coefficient = dynamics_coefficient(found.constants, discount=found.discount)
    assert found.value(0.1, 0.0) == pytest.approx(0.1 * coefficient, rel=1e-9)
    assert found.value(0.0, 0.1) == pytest.approx(0.1 / (1 - found.discount), rel=1e-9)


def test_boundary_cases_are_marked_and_left_out(monkeypatch):
    monkeypatch.setattr(linear, "MARGIN", 0.05)
    rows = linear.linear_rows(**LINEAR)
    marked = [row for row in rows if row["boundary_excluded"]]
    assert {row["contraction"] for row in marked} == {0.6 * 0.9 * 1.8}
    for row in marked:  # what they say does not count
        row["predicted"] *= 100.0
    found = study._linear_summary(rows)
    assert found["boundary_excluded"] == len(marked) == 2 * 3 * 3
    assert found["measured"]["configurations"] == len(rows) - len(marked)
    assert found["measured"]["max_abs"] < 1e-5
    assert found["largest_contraction"] < 0.95


@pytest.mark.slow
def test_section_4_2_as_in_the_design():
    """30 of 30 systems overshoot, median ℓ > 2; measured sensitivities: |ℓ| < 0.5."""
    found = study.run(quick=False, progress=lambda done: None).entries
    linear = found["lqg"]
    assert (linear["systems"], linear["overshoot"]) == (30, 30)
    assert linear["median_global"] > 2
    assert linear["median_abs_measured"] < 0.5
    assert linear["sign_test_p"] == pytest.approx(2**-30)
    assert linear["spearman_measured"] > 0.5
    groups = found["parametric"]
    wanted = {"linear": 0, "tanh": 0.012, "sin": 0.007, "quadratic": 0.035}
    for name, median in wanted.items():
        assert groups[name]["median_abs"] == pytest.approx(median, abs=6e-4)
    assert groups[study.CONTROL]["median_abs"] == pytest.approx(1.07, abs=0.01)
