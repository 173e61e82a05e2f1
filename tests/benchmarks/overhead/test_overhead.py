"""The overhead benchmark: what it would measure, and how it counts."""

import collections
import dataclasses
import itertools
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.measure import timing
from benchmarks.measure.timing import Interval, Spread, interleave, paired, ratios
from benchmarks.overhead import __main__ as overhead
from benchmarks.overhead import report as overhead_report
from benchmarks.overhead import variance
from benchmarks.overhead.rows import Measured, Variant
from benchmarks.overhead.steps import Bench, measure
from core.penalty import PenaltyOptions


def test_programs_are_run_in_turn_and_the_first_round_does_not_count():
    calls = []
    programs = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = interleave(programs, rounds=9)
    assert {name: len(times) for name, times in seconds.items()} == dict.fromkeys(
        "abc", 9
    )
    assert "".join(calls[:6]) == "acbcab"


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_no_program_always_follows_the_same_other_one(count):
    cycle = count if count % 2 == 0 else 2 * count
    rounds = [timing.order(count, number) for number in range(cycle)]
    pairs = collections.Counter(
        pair for order in rounds for pair in itertools.pairwise(order)
    )
    assert len(pairs) == count * (count - 1) and len(set(pairs.values())) <= 1
    first = collections.Counter(order[0] for order in rounds)
    assert len(first) == count and len(set(first.values())) == 1


def test_ratios_are_taken_within_a_round():
    # The machine was twice as slow in the second round: the ratio does not see it.
    assert ratios([1.5, 3.0, 1.5], [1.0, 2.0, 1.0]) == Spread(1.5, 1.5, 1.5)
    assert Spread.of([1.0, 2.0, 3.0, 4.0, 5.0]) == Spread(3.0, 2.0, 4.0)


def test_a_ratio_is_to_the_mean_of_both_baselines_of_its_round():
    found = paired([2.0, 4.4, 2.2], [1.0, 2.0, 1.0], [3.0, 2.0, 1.0])
    assert found.median == pytest.approx(2.2) and found.low == pytest.approx(1.0)
    assert paired([3.0], [2.0]) == Interval(1.5, 1.5, 1.5)


def test_the_interval_is_that_of_the_median():
    """It covers the true median of skewed times as often as it says."""
    random = np.random.default_rng(0)
    covered = [
        (found := Interval.of(random.lognormal(0.0, 0.3, 24).tolist())).low
        < 1
        < found.high
        for _ in range(200)
    ]
    assert 0.88 < np.mean(covered) < 0.99


def test_processor_time_leaves_out_what_others_do():
    asleep, busy = lambda: time.sleep(0.05), lambda: sum(range(200_000))
    costs = timing.interleave_costs({"asleep": asleep, "busy": busy}, rounds=3)
    assert all(x.wall >= 0.05 and x.processor < 0.04 for x in costs["asleep"])
    assert all(x.processor > 1e-4 for x in costs["busy"])


def test_every_row_is_one_that_the_trainer_would_accept():
    for quick in (True, False):
        for every in (True, False):
            rows = overhead.variants(classes=16, every=every, quick=quick)
            assert len(set(rows)) == len(rows)
            for row in rows:
                assert row.target != "core" or row.probe_kind == "rademacher"
                assert (row.probe_kind == "exact") == (row.probes is None)
    full = overhead.variants(classes=16, every=True, quick=False)
    # 2 implementations x 4 fractions x (3 heads x 3 probe kinds + core).
    assert len(full) == 2 * 4 * (3 * 3 + 1)
    few = overhead.variants(classes=4, every=True, quick=False)
    assert max(row.probes or 0 for row in few) == 3


@pytest.fixture
def results():
    def of(seconds: float, middle: float) -> Measured:
        each = Spread(seconds, seconds - 0.1, seconds + 0.1)
        ratio = Interval(middle, middle - 0.05, middle + 0.05)
        return Measured(each, each, ratio, ratio, 7.0, 10**9, 1e9)

    rows = overhead.variants(classes=16, every=False, quick=False)
    return of(2.0, 1.0), {row: of(2.5, 1.25) for row in rows}


def test_the_paper_stands_beside_the_rows_it_measured(results):
    lines = overhead_report.table(*results).splitlines()
    beside = [line for line in lines if "posterior rho 0.5 1 rademacher" in line]
    assert len(beside) == 2 and all(" 1.51 " in line for line in beside)
    exact = next(line for line in lines if "posterior rho 0.5 exact" in line)
    assert "1.51" not in exact and "1.250" in exact


def test_the_record_names_every_row(results):
    config = overhead._config(overhead._parser().parse_args([]))
    record = json.loads(json.dumps(overhead_report.record(config, *results)))
    assert record["shape"]["imagination_length"] == 25
    again, row, *_ = record["rows"]
    assert again["implementation"] == "none" and again["step_ratio"] == 1.0
    wanted = {"implementation", "target", "rho", "probe_kind", "probes", "step_ratio"}
    assert wanted | {"step_seconds", "peak_bytes", "flops"} <= row.keys()
    assert overhead_report.draw(results[1]).axes[0].get_legend() is not None


@pytest.mark.slow
def test_a_real_step_is_timed():
    options = overhead._parser().parse_args(["--quick"])
    config = overhead._config(options)
    small = dataclasses.replace(config, batch_size=4, batch_length=16)
    bench = Bench(dataclasses.replace(small, imagination_length=5))
    rows = [Variant("xla", "posterior", 1.0, "rademacher", 1)]
    baseline, found = measure(bench, rows, rounds=2, say=lambda _: None)
    assert baseline.step_seconds.median > 0
    ratio = found[rows[0]].step_ratio
    assert np.isfinite(ratio.median) and 0.3 < baseline.step_ratio.median < 3


def test_the_families_are_those_the_trainer_would_accept():
    for classes in (4, 16):
        rows = variance.families(classes, quick=False)
        assert len(set(rows)) == len(rows)
        for row in rows:
            # As many Hadamard probes as there are is the exact penalty.
            assert row.probe_kind != "hadamard" or (row.probes or 0) < classes - 1
    assert {row.probes for row in variance.families(16, quick=False)} == {
        None,
        *(1, 2, 4, 8),
    }


def test_spread_is_the_trace_of_the_covariance(getkey):
    gradients = jax.random.normal(getkey(), (6, 5))
    covariance = np.cov(np.asarray(gradients), rowvar=False)
    weight = jnp.arange(5.0)
    assert variance.spread(gradients) == pytest.approx(np.trace(covariance), rel=1e-5)
    weighted = variance.spread(gradients, weight)
    assert weighted == pytest.approx(np.diag(covariance) @ np.arange(5.0), rel=1e-5)


@pytest.mark.slow
def test_the_noise_falls_with_the_probes(monkeypatch, tmp_path):
    picked = [
        PenaltyOptions(rho=1.0, probes=1),
        PenaltyOptions(rho=1.0, probes=8),
        PenaltyOptions(rho=1.0, probe_kind="exact"),
    ]
    monkeypatch.setattr(variance, "families", lambda classes, *, quick: picked)
    path = tmp_path / "variance.json"
    assert overhead.main(["--variance", "--quick", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    one, eight, exact = (row["over_minibatch"] for row in rows)
    assert one / 16 < eight < one / 4  # a mean of eight has an eighth of the variance
    assert exact < 1e-8


def test_a_run_needs_the_flag_it_belongs_to(capsys):
    assert overhead.main(["--run", "nowhere"]) == 2
    assert "only with --variance" in capsys.readouterr().err
    assert overhead.main(["--variance", "--run", "nowhere"]) == 2
    assert "no such directory" in capsys.readouterr().err
