"""What docs/does-it-help.md says of suites of runs."""

import pytest

from benchmarks.readme import experiments
from benchmarks.readme.__main__ import kind
from benchmarks.readme.tables import Result
from benchmarks.suite.report import NO_RUNS
from benchmarks.suite.summary import summarize

ARMS, TASKS = ["none", "gpld"], ["walker-walk", "cheetah-run"]


def data(gain, seeds=4, arms=ARMS, name="evidence", wanted=4):
    """A suite in which one arm gains `gain` in every run."""
    runs = [
        {
            "task": task,
            "arm": arm,
            "seed": seed,
            "steps": 400,
            "final_return": 100.0 + seed + (gain if arm == "gpld" else 0.0),
            "curve": {"steps": [100, 400], "returns": [1.0, 2.0]},
            "jacobian": 1.0,
            "commit": "0123456789",
            "cpu": "Some CPU",
            "date": f"2026-01-0{seed + 1}T00:00:00",
        }
        for seed in range(seeds)
        for task in TASKS
        for arm in arms
    ]
    return {
        "provenance": {"date": "2026-01-09"},
        "suite": name,
        "title": "A title",
        "baseline": "none",
        "tasks": TASKS,
        "arms": ARMS,
        "seeds": list(range(wanted)),
        "aggregates": summarize(runs, arms=ARMS, baseline="none"),
        "runs": runs,
    }


def page(found, picture=None):
    return experiments.suite([Result("x/suite.json", found, picture)], "the command")


@pytest.mark.parametrize(
    ("gain", "says"),
    [
        (5.0, "probability 1.00 [1.00, 1.00]: `gpld` is better."),
        (-5.0, "probability 0.00 [0.00, 0.00]: `gpld` is worse."),
        (0.0, "one half is inside: **these runs show no difference**."),
    ],
)
def test_the_verdict_is_that_of_the_interval(gain, says):
    text = page(data(gain))
    assert "ends above the run of `none` of the same seed" in text
    assert says in text
    assert f"Its mean return is {1 + gain / 101.5:.2f} [" in text


def test_what_is_there_is_shown_with_its_origin():
    text = page(data(5.0), picture="x/suite.png")
    assert text.startswith("**A title**: all 16 runs finished (4 seeds of each")
    assert "![learning curves](x/suite.png)" in text
    assert "![aggregates](x/suite-aggregate.png)" in text
    assert "| walker-walk | 400   | 102 ± 1 (n = 4) | 106 ± 1 (n = 4) |" in text
    assert "(Some CPU; commits 0123456 (16 runs), 2026-01-01 to 2026-01-04" in text
    assert "[data](x/suite.json))" in text
    assert "![" not in page(data(5.0))


def test_unfinished_suites_say_so():
    few = page(data(5.0, seeds=1))
    assert "4 of 16 runs finished (1 seed of each" in few
    assert "**The rest is still to come.**" in few
    assert "too few seeds for an interval, so no verdict." in few
    half = page(data(5.0, arms=["none"]))
    assert "arms are not compared" in half and "| gpld" in half
    assert experiments.suite([], "the command").startswith(f"{NO_RUNS} `the command`")
    assert page(data(5.0, seeds=0)).startswith(NO_RUNS)


def test_several_suites():
    found = [Result("x", data(5.0, name="a")), Result("y", data(5.0, 0, name="b"))]
    text = experiments.suites(found, ["a", "b", "c"])
    assert text.count("**A title**") == 1
    assert text.endswith(f"{NO_RUNS} `b`, `c`.")


def test_results_of_suites_are_told_by_their_name():
    assert kind(data(1.0)) == "suite evidence"
