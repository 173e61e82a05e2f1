"""The trust report where the truth is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.trust.branches import Branches
from benchmarks.trust.episodes import Heads
from benchmarks.trust.known import calibrate, candidates
from benchmarks.trust.known.measure import make_measure_known
from benchmarks.trust.labels import PARTS
from benchmarks.trust.statistics import Clusters, correlation, rank_correlation
from benchmarks.trust.summary import imagined_rewards, summarize, true_rewards
from benchmarks.trust.verdict import NAMES, reasons, verdict

pytestmark = pytest.mark.long

PLAN = calibrate.PLAN._replace(decisions=60, starts=128, horizon=8, steps=6)


@pytest.fixture(scope="module", params=sorted(calibrate.CASES))
def measures(request):
    """Of one kind of system: without noise, and with."""
    build = calibrate.CASES[request.param]
    noise = calibrate.NOISE[request.param]
    return [make_measure_known(build, PLAN, noise=size) for size in (0.0, noise)]


def judged(measure, *sizes, seed=0):
    found = measure(jax.random.key(seed), jnp.asarray(sizes))
    summary = summarize(found, PLAN)
    return found, summary, reasons(summary, PLAN.steps)


def test_a_perfect_model_has_no_error_and_is_trusted(measures):
    found, summary, spoken = judged(measures[0], 0, 0, 0, 0)
    assert spoken == [] and verdict(spoken).startswith("trusted")
    branches, parts = found.branches, found.windows.attribute()
    np.testing.assert_allclose(found.windows.distance, 0, atol=1e-5)
    np.testing.assert_allclose(branches.error, 0, atol=1e-9)
    np.testing.assert_allclose(branches.imagined.reward, branches.reward, atol=1e-5)
    assert np.max(branches.unchanged) > 0.1
    for name in ("reward", "dynamics", "continuation"):
        np.testing.assert_allclose(getattr(parts, name), 0, atol=1e-4)
    # The critic is one without noise in the actions: only its part is left.
    np.testing.assert_allclose(parts.gap, parts.value, atol=1e-3)
    assert summary["horizons"]["return correlation"][-1] > 0.9999
    assert summary["attribution"]["largest residual"] < 1e-10


def test_a_right_model_with_noise_is_trusted(measures):
    for seed in range(3):
        _, summary, spoken = judged(measures[1], 0, 0, 0, 0, seed=seed)
        assert spoken == []
        means = summary["attribution"]["mean"]
        assert abs(means["model"]["mean"]) < 0.2
        assert means["dynamics"]["low"] < means["dynamics"]["high"]


@pytest.mark.parametrize("place", range(4), ids=PARTS)
def test_a_planted_error_is_blamed_in_its_part(measures, place):
    sizes = np.zeros(4)
    sizes[place] = 0.5
    _, summary, spoken = judged(measures[1], *sizes)
    means = {part: abs(summary["attribution"]["mean"][part]["mean"]) for part in PARTS}
    assert max(means, key=means.__getitem__) == PARTS[place]
    names = {reason.name for reason in spoken}
    assert names <= set(NAMES)
    if PARTS[place] != "value":
        assert "bias" in names
        assert verdict(spoken).startswith("not trusted because")
    if PARTS[place] == "dynamics":
        assert summary["horizons"]["observation"]["mean"][-1] > 0.1


def test_rates_of_the_calibration():
    result = calibrate.calibrate(1, sizes=(0.5,))
    rows = result["rows"]
    assert len(rows) == 2 * 5 and rows[0]["part"] == "none"
    assert rows[0]["rates"]["any"] == 0 and rows[1]["rates"]["bias"] == 1
    table = calibrate.table(result)
    assert "right part" in table
    # Three kinds of systems, each with a right model and a wrong one.
    assert len(result["candidates"]) == 3 * 2
    assert "growth above 1: speaks against right models; no flag" in table
    assert len(calibrate.draw(result).axes) == 1


def test_growth_is_that_of_the_closed_loop_matrix():
    build = candidates.expanding(calibrate.lqg_case, 1.5)
    key, sizes = jax.random.key(4), jnp.zeros(4)
    found = candidates.make_numbers(build, steps=5, noise=0.01)(key, sizes)
    case = build(key, sizes)
    step = lambda s: case.model.dynamics(s, case.policy(s))
    flow = np.linalg.matrix_power(np.asarray(jax.jacobian(step)(jnp.zeros(3))), 5)
    assert found.growth == pytest.approx(np.linalg.norm(flow) / 3**0.5, rel=1e-4)
    assert found.error == pytest.approx(2**0.5 * 0.01)
    # The return is quadratic in the state: the expansion holds for every error.
    assert found.radius == candidates.GRID[-1]


@pytest.mark.parametrize(
    ("numbers", "growth", "radius"),
    [((0.9, 0.1, 0.2), False, False), ((1.1, 0.1, 0.1), True, False)]
    + [((0.5, 0.1, 0.05), False, True), ((2.0, 0.1, 0.0), True, True)],
)
def test_candidates_speak_above_one(numbers, growth, radius):
    found = candidates.Numbers(*numbers)
    assert found.speaks == {"growth": growth, "radius": radius}


def test_a_candidate_is_honest_if_it_spares_right_models_of_every_kind():
    row = lambda size, growth, radius: {
        "size": size,
        "rates": {"growth": growth, "radius": radius},
    }
    rows = [row(0, 0.0, 0.1), row(0.3, 1.0, 1.0), row(0, 0.1, 0.11)]
    assert candidates.honest(rows) == {"growth": True, "radius": False}


def test_discounted_rewards_of_branches():
    rng = np.random.default_rng(0)
    reward, guess = jnp.asarray(rng.normal(size=(2, 5, 3)))
    one = jnp.ones((5, 3))
    # A terminal state: nothing is earned after it.
    discount = (0.9 * one).at[2, 1].set(0.0)
    heads = Heads(one, one, one)
    imagined = Heads(guess, discount, one)
    known = one.astype(bool)
    branches = Branches(imagined, heads, reward, discount, known, one, one)
    for found, given in (
        (true_rewards(branches), reward),
        (imagined_rewards(branches), guess),
    ):
        total, weight = np.zeros(3), np.ones(3)
        for h in range(5):
            total = total + weight * np.asarray(given[h])
            weight = weight * np.asarray(discount[h])
            np.testing.assert_allclose(found[h], total, rtol=1e-6)
        assert found[4, 1] == found[2, 1]


def test_intervals_are_over_episodes():
    """Equal values within an episode: as many values as episodes, not as starts."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 50)
    values = rng.normal(size=20)[labels]
    found = Clusters(labels).mean(values)
    assert found["mean"] == pytest.approx(values.mean())
    half = (found["high"] - found["low"]) / 2
    error = values[::50].std() / np.sqrt(20)
    assert 1.6 * error < half < 2.4 * error
    # Independent values: that of the mean of all.
    values = rng.normal(size=1000)
    found = Clusters(labels).mean(values)
    half = (found["high"] - found["low"]) / 2
    assert 1.3 * values.std() / 1000**0.5 < half < 2.6 * values.std() / 1000**0.5


def test_unknown_values_do_not_count():
    values = np.array([[1.0, 2.0, 1e9], [3.0, 4.0, 5.0]])
    known = np.array([[True, True, False], [True] * 3])
    found = Clusters(np.array([0, 1, 1])).mean(values, known)
    assert found["mean"] == pytest.approx([1.5, 4.0])
    assert found["high"][0] <= 2 and found["low"][1] >= 3


def test_correlations_of_what_does_not_vary_are_unknown():
    x = np.arange(10.0)
    assert correlation(x, np.ones(10)) is None
    assert rank_correlation(x, x**3) == pytest.approx(1)
    assert correlation(x, -x) == pytest.approx(-1)
