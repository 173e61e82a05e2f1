"""REINFORCE from noisy and biased rewards: exact sums, closed forms, simulation."""

import itertools
import json

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure

from benchmarks.theory.noise import study as noise_study
from core.theory import reinforce as rf
from core.theory import reward_noise as rn

COSTS = np.linspace(0.05, 1.0, 2001)


def small(discount=0.8, horizon=3, states=2):
    return rf.random_mdp(states, 2, discount=discount, horizon=horizon, seed=3)


@pytest.mark.parametrize("discounted", [True, False])
@pytest.mark.parametrize("discount", [0.3, 0.9, 1.0])
def test_extra_variance_is_the_closed_form(discount, discounted):
    mdp, logits = small(discount, horizon=5, states=3)
    clean = rf.enumerated_moments(mdp, logits, discounted=discounted)
    noisy = rf.enumerated_moments(mdp, logits, noise=0.7, discounted=discounted)
    scores = rf.score_moments(mdp, logits)
    gain = rn.noise_gain(scores, discount=discount, discounted=discounted)
    assert abs(noisy.variance - clean.variance - 0.7**2 * gain) < 1e-9
    np.testing.assert_array_equal(noisy.mean, clean.mean)


@pytest.mark.parametrize("discounted", [True, False])
def test_enumerated_moments_against_every_sign_of_the_noise(discounted):
    """Noise of ±σ has variance σ²; here nothing is averaged by hand."""
    mdp, logits = small()
    paths = rf.enumerate_trajectories(mdp, logits)
    assert abs(paths.probability.sum() - 1) < 1e-12
    assert len(paths.probability) == 4**3
    clean = mdp.reward[paths.states, paths.actions]
    values = np.stack(
        [
            rf.estimates(
                mdp, logits, paths, clean + 0.7 * np.array(signs), discounted=discounted
            )
            for signs in itertools.product([-1.0, 1.0], repeat=3)
        ]
    )
    mean = np.einsum("n,mnsa->sa", paths.probability, values) / 8
    squares = np.sum((values - mean) ** 2, axis=(2, 3))
    found = rf.enumerated_moments(mdp, logits, noise=0.7, discounted=discounted)
    np.testing.assert_allclose(found.mean, mean, atol=1e-12)
    assert abs(found.variance - squares.mean(0) @ paths.probability) < 1e-12


def test_impossible_branches_are_not_enumerated():
    """Deterministic dynamics from one state, as in the paper: actions alone branch."""
    mdp, logits = small(horizon=6)
    mdp = mdp._replace(
        transition=np.eye(2)[np.array([[0, 1], [1, 0]])], initial=np.array([0.0, 1.0])
    )
    paths = rf.enumerate_trajectories(mdp, logits)
    assert len(paths.probability) == 2**6
    assert abs(paths.probability.sum() - 1) < 1e-12


def numerical_gradient(fn, logits, step=1e-5):
    columns = []
    for index in np.ndindex(*logits.shape):
        shift = np.zeros(logits.shape)
        shift[index] = step
        columns.append((fn(logits + shift) - fn(logits - shift)) / (2 * step))
    return np.stack(columns)


def test_with_discounted_scores_the_mean_is_the_gradient():
    mdp, logits = small(horizon=5)
    gradient = numerical_gradient(lambda x: rf.expected_return(mdp, x), logits)
    exact = rf.policy_gradient(mdp, logits)
    np.testing.assert_allclose(exact.ravel(), gradient, atol=1e-8)
    mean = rf.enumerated_moments(mdp, logits).mean
    np.testing.assert_allclose(mean, exact, atol=1e-12)


def test_without_them_it_is_no_gradient_of_anything():
    mdp, logits = small(discount=0.6, horizon=5, states=3)
    mean = rf.enumerated_moments(mdp, logits, discounted=False).mean
    formula = rf.policy_gradient(mdp, logits, discounted=False)
    np.testing.assert_allclose(mean, formula, atol=1e-12)
    error = np.linalg.norm(mean - rf.policy_gradient(mdp, logits))
    assert error > 0.3 * np.linalg.norm(rf.policy_gradient(mdp, logits))
    for discounted, symmetric in [(True, True), (False, False)]:
        mean_of = lambda x, d=discounted: rf.policy_gradient(
            mdp, x, discounted=d
        ).ravel()
        derivative = numerical_gradient(mean_of, logits)
        asymmetry = np.abs(derivative - derivative.T).max()
        assert (asymmetry < 1e-8) == symmetric
    # Without discounting there is nothing to tell them apart.
    mdp = mdp._replace(discount=1.0)
    np.testing.assert_allclose(
        rf.policy_gradient(mdp, logits, discounted=False),
        rf.policy_gradient(mdp, logits),
        atol=1e-14,
    )


@pytest.mark.parametrize("discounted", [True, False])
def test_the_printed_bound_holds_and_is_loose(discounted):
    ratios = []
    for discount in (0.3, 0.6, 0.9, 0.99):
        mdp, logits = small(discount, horizon=5, states=3)
        bound = rn.theorem_2_bound(
            rf.expected_max_score(mdp, logits),
            noise_variance=1.0,
            horizon=5,
            discount=discount,
            rollouts=1,
        )
        scores = rf.score_moments(mdp, logits)
        gain = rn.noise_gain(scores, discount=discount, discounted=discounted)
        ratios.append(bound / gain)
    assert min(ratios) > 1
    assert ratios == sorted(ratios)
    assert ratios[2] > 50


@pytest.mark.parametrize("discounted", [True, False])
def test_simulation(discounted):
    """2^17 rollouts: the variance has a standard error of half a percent."""
    mdp, logits = small(0.9, horizon=5, states=3)
    exact = rf.enumerated_moments(mdp, logits, noise=1.0, discounted=discounted)
    clean = rf.enumerated_moments(mdp, logits, discounted=discounted)
    assert exact.variance > 1.5 * clean.variance
    samples = rf.sample_estimates(
        mdp, logits, jax.random.key(0), count=2**17, noise=1.0, discounted=discounted
    )
    found, mean_error, variance_error = rf.sampled_moments(samples)
    assert variance_error < 0.007 * exact.variance
    np.testing.assert_allclose(found.variance, exact.variance, rtol=0.02)
    assert np.all(np.abs(found.mean - exact.mean) < 4.5 * mean_error)


MODELS = [
    rn.PowerLaw(scale=0.5, exponent=0.5),
    rn.PowerLaw(scale=0.02, exponent=1.5),
    rn.PowerLaw(scale=0.02, exponent=3.0),
    rn.PowerLaw(scale=0.5, exponent=1.0, floor=0.3),
    rn.PowerLaw(scale=0.01, exponent=2.0, floor=0.3),
    rn.BoundedFidelity(start=2.0, exact=1.0),
    rn.BoundedFidelity(start=2.0, exact=0.6),
]


@pytest.mark.parametrize("objective", ["noise_only", "total"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("clean", "gain"), [(3.0, 2.0), (0.1, 5.0)])
def test_optimal_fidelity_against_a_grid(model, objective, clean, gain):
    weights = {"objective": objective, "clean_variance": clean, "gain": gain}
    best = rn.optimal_fidelity(model, lowest=0.05, highest=1.0, **weights)
    values = rn.fidelity_objective(model, COSTS, **weights)
    assert best.value <= values.min() + 1e-12
    assert best.value > 0.999 * values.min() - 1e-12
    at = rn.fidelity_objective(model, np.array(best.costs), **weights)
    np.testing.assert_allclose(at, best.value, rtol=1e-10, atol=1e-12)


def kind(model, objective, lowest=0.05, **weights):
    return rn.optimal_fidelity(
        model, lowest=lowest, highest=1.0, objective=objective, **weights
    ).kind


def test_corollary_2_as_printed():
    power = lambda p, floor=0.0: rn.PowerLaw(0.1, p, floor)
    assert kind(power(2.0), "noise_only") == "highest"
    assert kind(power(0.5), "noise_only") == "lowest"
    assert kind(power(1.0), "noise_only") == "flat"
    assert kind(power(1.0, 0.5), "noise_only") == "lowest"
    bounded = rn.BoundedFidelity(2.0, 1.0)
    assert kind(bounded, "noise_only", lowest=0.0) == "both ends"
    values = rn.fidelity_objective(bounded, COSTS, objective="noise_only")
    assert abs(COSTS[np.argmax(values)] - 0.5) < 1e-3
    np.testing.assert_allclose(values.max(), 2.0 * 1.0 / 4, rtol=1e-6)


def test_corollary_2_and_what_it_leaves_out():
    weights = {"clean_variance": 3.0, "gain": 2.0}
    steep = rn.PowerLaw(scale=0.2, exponent=2.0)
    best = rn.optimal_fidelity(
        steep, lowest=0.05, highest=1.0, objective="total", **weights
    )
    assert best.kind == "interior"
    np.testing.assert_allclose(best.costs[0], (2.0 * 0.2 * 1.0 / 3.0) ** 0.5)
    # The tie of the bounded model is broken, and both flat and floor change.
    bounded = rn.BoundedFidelity(2.0, 1.0)
    assert kind(bounded, "noise_only") == "highest"
    assert kind(bounded, "total", **weights) == "lowest"
    assert kind(rn.PowerLaw(0.1, 1.0), "total", **weights) == "lowest"
    assert kind(rn.PowerLaw(0.1, 2.0, 0.5), "noise_only") == "interior"


def test_the_interior_optimum_in_simulation():
    """Half the best cost and the highest one are both worse, by the whole variance."""
    mdp, logits = small(0.9, horizon=4)
    clean = rf.enumerated_moments(mdp, logits).variance
    gain = rn.noise_gain(rf.score_moments(mdp, logits), discount=0.9)
    # Scaled so that the optimum is at a cost of 0.3.
    model = rn.PowerLaw(scale=0.3**2 * clean / gain, exponent=2.0)
    best = rn.optimal_fidelity(
        model,
        lowest=0.05,
        highest=1.0,
        objective="total",
        clean_variance=clean,
        gain=gain,
    )
    np.testing.assert_allclose(best.costs, 0.3)

    def spread(cost, seed):
        samples = rf.sample_estimates(
            mdp,
            logits,
            jax.random.key(seed),
            count=2**17,
            noise=float(model.variance(np.array([cost]))[0]) ** 0.5,
        )
        moments, _, error = rf.sampled_moments(samples)
        return cost * moments.variance, cost * error

    best_value, best_error = spread(0.3, 0)
    np.testing.assert_allclose(best_value, best.value, rtol=0.02)
    for seed, cost in enumerate((0.15, 1.0), start=1):
        value, error = spread(cost, seed)
        assert value - best_value > 5 * (error**2 + best_error**2) ** 0.5


@pytest.mark.parametrize("discounted", [True, False])
def test_proposition_2_over_every_pair_of_rollouts(discounted):
    mdp, logits = small(0.7, horizon=2)
    bias = np.array([[0.4, -0.2], [0.1, 0.8]])
    paths = rf.enumerate_trajectories(mdp, logits)
    rewards = (mdp.reward + bias)[paths.states, paths.actions]
    ones = rf.estimates(mdp, logits, paths, rewards, discounted=discounted)
    pairs = 0.5 * (ones[:, None] + ones[None])
    errors = np.sum((pairs - rf.policy_gradient(mdp, logits)) ** 2, axis=(2, 3))
    wanted = paths.probability @ errors @ paths.probability
    found = rn.mean_squared_error(
        mdp, logits, bias=bias, rollouts=2, discounted=discounted
    )
    assert abs(found.total - wanted) < 1e-12
    parts = found.reward_bias + found.estimator_bias
    assert abs(found.squared_bias - np.sum(parts**2)) < 1e-12
    assert np.allclose(found.estimator_bias, 0) == discounted


def test_more_rollouts_leave_the_bias():
    mdp, logits = small(0.9, horizon=4)
    bias = np.array([[0.4, -0.2], [0.1, 0.8]])
    few, many = (
        rn.mean_squared_error(mdp, logits, bias=bias, rollouts=k, noise=1.0)
        for k in (10, 1000)
    )
    np.testing.assert_allclose(few.variance, 100 * many.variance)
    assert few.squared_bias == many.squared_bias > 1e-3
    # ∇B_H by itself: the gradient of the return of an MDP that pays the bias.
    only = mdp._replace(reward=bias)
    gradient = numerical_gradient(lambda x: rf.expected_return(only, x), logits)
    np.testing.assert_allclose(many.reward_bias.ravel(), gradient, atol=1e-8)


def test_a_constant_bias_costs_variance_only():
    mdp, logits = small(0.9, horizon=4)
    constant = np.full((2, 2), 1.5)
    one = rn.mean_squared_error(mdp, logits, bias=constant, rollouts=1)
    assert one.squared_bias < 1e-20
    assert abs(one.variance - rf.enumerated_moments(mdp, logits).variance) > 0.1


def test_proposition_2_in_simulation():
    mdp, logits = small(0.9, horizon=4)
    bias = np.array([[0.4, -0.2], [0.1, 0.8]])
    exact = rn.mean_squared_error(mdp, logits, bias=bias, rollouts=64, noise=1.0)
    samples = rf.sample_estimates(
        mdp, logits, jax.random.key(5), count=2**17, noise=1.0, bias=bias
    )
    means = np.asarray(samples, np.float64).reshape(-1, 64, 2, 2).mean(axis=1)
    squares = np.sum((means - rf.policy_gradient(mdp, logits)) ** 2, axis=(1, 2))
    error = squares.std() / len(squares) ** 0.5
    assert abs(squares.mean() - exact.total) < 4 * error
    # It could tell the squared bias from nothing.
    assert exact.squared_bias > 8 * error


def test_errors():
    mdp, logits = small(horizon=30)
    with pytest.raises(ValueError, match="30 steps; shorten the horizon"):
        rf.enumerate_trajectories(mdp, logits)
    with pytest.raises(ValueError, match="count=0"):
        rf.sample_estimates(mdp, logits, jax.random.key(0), count=0)
    with pytest.raises(ValueError, match="discount=1"):
        rn.theorem_2_bound(1.0, noise_variance=1.0, horizon=2, discount=1.0, rollouts=1)
    with pytest.raises(ValueError, match="exponent=-1"):
        rn.PowerLaw(scale=1.0, exponent=-1.0)
    with pytest.raises(ValueError, match="start=0"):
        rn.BoundedFidelity(start=0.0, exact=1.0)
    power = rn.PowerLaw(scale=1.0, exponent=1.0)
    with pytest.raises(ValueError, match="the noise is infinite there"):
        kind(power, "total", lowest=0.0)
    with pytest.raises(ValueError, match="lowest=2"):
        kind(power, "total", lowest=2.0)
    with pytest.raises(ValueError, match="gain=0"):
        kind(power, "total", gain=0.0)


@pytest.mark.slow
def test_quick_study():
    fractions = []
    study = noise_study.run(quick=True, progress=fractions.append)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    json.dumps(study.entries, allow_nan=False)
    study.draw(Figure())
    for row in study.entries["theorem_2"]:
        assert abs(row["extra_enumerated"] - row["extra_formula"]) < 1e-9
        deviation = abs(row["extra_sampled"] - row["extra_formula"])
        assert deviation < 4.5 * row["extra_sampled_error"]
    assert "--quick: a quick check, not a measurement" in study.tables
