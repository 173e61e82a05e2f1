"""Statistics over tasks and seeds: by hand, and beside rliable's values."""

import numpy as np
import pytest
from scipy.stats import norm

from benchmarks.suite import statistics
from benchmarks.suite.report import paper

# Two tasks: four seeds and three.
TASKS = [np.array([0.0, 0.2, 0.4, 1.0]), np.array([0.5, 0.6, 1.3])]

# rliable 1.2.0 with arch 7.2 and pandas 2.3 gave the values below for these scores
# (seeds × tasks), with 20,000 (aggregates) and 2,000 resamples.
X = [[0.1, 0.28, 0.96, 0.7], [0.11, 0.52, 0.57, 0.19], [0.88, 0.14, 0.47, 0.62]]
X += [[0.52, 0.7, 0.89, 1.15], [0.34, 0.78, 0.84, 0.35]]
Y = [[0.0, 0.97, 0.3, 0.31], [0.89, 0.59, 0.47, 0.77], [0.03, 0.71, 0.37, 0.09]]
Y += [[0.66, 0.93, 0.21, 0.63], [0.3, 0.74, 0.72, 0.22]]
RLIABLE = {
    "iqm": (0.557, 0.403, 0.713),
    "mean": (0.5555, 0.44, 0.6740125),
    "median": (0.543, 0.398, 0.7),
    "optimality_gap": (0.452, 0.3379875, 0.5625),
}
NOISE = 0.011  # of an interval's end, between two sets of resamples


@pytest.mark.parametrize(
    ("name", "value"),
    [
        # Of 0 .2 .4 .5 .6 1 1.3 one falls away at each end.
        ("iqm", (0.2 + 0.4 + 0.5 + 0.6 + 1.0) / 5),
        ("mean", (0.4 + 0.8) / 2),
        ("median", (0.4 + 0.8) / 2),
        ("optimality_gap", ((1 + 0.8 + 0.6 + 0) / 4 + (0.5 + 0.4 + 0) / 3) / 2),
    ],
)
def test_aggregates_by_hand(name, value):
    assert float(statistics.AGGREGATES[name](*TASKS)) == pytest.approx(value)


def test_the_median_is_over_tasks():
    tasks = [np.array([0.0, 2.0]), np.array([5.0]), np.array([9.0])]
    assert float(statistics.median(*tasks)) == 5


def columns(scores):
    return list(np.array(scores).T)


@pytest.mark.parametrize("name", RLIABLE)
def test_aggregates_are_those_of_rliable(name):
    found = statistics.estimate(statistics.AGGREGATES[name], columns(X))
    value, low, high = RLIABLE[name]
    assert found.value == pytest.approx(value)
    assert found.low == pytest.approx(low, abs=NOISE)
    assert found.high == pytest.approx(high, abs=NOISE)


def test_probability_of_improvement_is_that_of_rliable():
    found = statistics.probability_of_improvement(columns(X), columns(Y))
    assert found.value == pytest.approx(0.565)
    assert found.low == pytest.approx(0.4, abs=NOISE)
    assert found.high == pytest.approx(0.715125, abs=NOISE)


def test_performance_profile_is_that_of_rliable():
    at = np.array([0, 0.25, 0.5, 0.75, 1])
    found = statistics.performance_profile(columns(X), at)
    assert [x.value for x in found] == pytest.approx([1.0, 0.8, 0.6, 0.3, 0.05])
    # A share of 20 runs: an end may fall on the next one.
    assert [x.low for x in found] == pytest.approx([1, 0.65, 0.4, 0.15, 0], abs=0.051)
    assert [x.high for x in found] == pytest.approx(
        [1, 0.95, 0.8, 0.5, 0.15], abs=0.051
    )


def test_probability_of_improvement_by_hand():
    # First task: 3 > 1, 3 > 2, 2 > 1 and 2 = 2: 3.5 of 4. Second: 0 of 2.
    better = [np.array([3.0, 2.0]), np.array([0.0])]
    worse = [np.array([1.0, 2.0]), np.array([1.0, 5.0])]
    found = statistics.probability_of_improvement(better, worse)
    assert found == (pytest.approx((3.5 / 4 + 0) / 2), None, None)
    with pytest.raises(ValueError, match="2 tasks against 1"):
        statistics.probability_of_improvement(better, worse[:1])


def test_paired_runs_are_compared_with_their_partner_only():
    """Every seed gains a little, though seeds differ by more than that."""
    worse = [np.array([1.0, 5.0, 9.0]), np.array([2.0, 4.0, 6.0])]
    better = [x + 0.5 for x in worse]
    pairs = [x - y for x, y in zip(better, worse, strict=True)]
    paired = statistics.paired_probability_of_improvement(pairs)
    assert paired == (1.0, 1.0, 1.0)
    unpaired = statistics.probability_of_improvement(better, worse)
    assert unpaired.value == pytest.approx(6 / 9)
    assert unpaired.low is not None and unpaired.low < 0.5
    tie = statistics.paired_probability_of_improvement([np.array([0.0, 1.0, -1.0, 2])])
    assert tie.value == pytest.approx(2.5 / 4)


def test_intervals_hold_what_they_say():
    """Of the mean of 20 seeds, between 90 and 97 in 100 intervals hold the truth."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        tasks = [rng.normal(size=20), 5 + rng.normal(size=20)]
        found = statistics.estimate(statistics.mean, tasks)
        assert found.low is not None and found.high is not None
        held += found.low < 2.5 < found.high
    assert 0.90 <= held / 200 <= 0.97


@pytest.mark.parametrize(
    ("probability", "low", "high"),
    [(0.5, 0.0, 0.15), (0.6, 0.05, 0.3), (0.75, 0.5, 0.9)],
)
def test_what_four_seeds_of_four_tasks_can_tell(monkeypatch, probability, low, high):
    """How often the interval leaves one half out: docs/does-it-help.md quotes it."""
    monkeypatch.setattr(statistics, "RESAMPLES", 300)
    rng = np.random.default_rng(0)
    shift = 2**0.5 * norm.ppf(probability)
    told = 0
    for _ in range(100):
        better = shift + rng.normal(size=(4, 4))
        found = statistics.probability_of_improvement(
            list(better), list(rng.normal(size=(4, 4)))
        )
        assert found.low is not None and found.high is not None
        told += found.low > 0.5 or found.high < 0.5
    assert low <= told / 100 <= high


def test_tasks_are_not_mixed():
    """Seeds of one task are resampled by themselves: no spread within, no interval."""
    found = statistics.estimate(statistics.mean, [np.zeros(3), np.full(3, 9.0)])
    assert found == (4.5, 4.5, 4.5)


def test_one_seed_has_no_interval_and_none_is_refused():
    one = statistics.estimate(statistics.mean, [np.array([3.0])])
    assert one == (3.0, None, None) and str(one) == "3"
    with pytest.raises(ValueError, match=r"seeds \[1, 0\]"):
        statistics.estimate(statistics.mean, [np.ones(1), np.ones(0)])
    with pytest.raises(ValueError, match=r"seeds \[\]"):
        statistics.estimate(statistics.mean, [])


def test_same_scores_same_interval():
    first = statistics.estimate(statistics.iqm, TASKS)
    assert first == statistics.estimate(statistics.iqm, TASKS)
    assert str(first).startswith("0.54 [")


def test_curves_at_other_steps():
    found = statistics.at_steps([10, 20], [1.0, 3.0], np.array([5, 10, 15, 20, 25]))
    np.testing.assert_array_equal(found, [np.nan, 1, 2, 3, np.nan])
    assert np.isnan(statistics.at_steps([], [], np.array([1]))).all()


def test_efficiency_curve_leaves_gaps():
    """A point needs a value of every task; a run that ended early drops out."""
    nan = np.nan
    curves = [np.array([[1.0, 2, 3], [3.0, nan, nan]]), np.array([[5.0, 5, nan]])]
    found = statistics.efficiency_curve(statistics.mean, curves)
    assert found[0] is not None and found[0].value == pytest.approx((2 + 5) / 2)
    assert found[1] is not None and found[1].value == pytest.approx((2 + 5) / 2)
    assert found[2] is None


def test_the_papers_gains_follow_from_its_table():
    """GPLD: 17.7 % over all 18 tasks, 34.6 % over the six of Table 1."""
    gpld = paper()["gpld"]
    before, after = gpld["dreamerv3"], gpld["gpld"]
    assert len(before) == 18 and before.keys() == after.keys()

    def gain(tasks):
        ratios = [np.array([after[task][0] / before[task][0]]) for task in tasks]
        return statistics.estimate(statistics.mean, ratios).value - 1

    assert gain(before) == pytest.approx(gpld["gain_table3"], abs=5e-4)
    assert gain(gpld["table1"]) == pytest.approx(gpld["gain_table1"], abs=5e-4)
