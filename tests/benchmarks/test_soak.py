"""The soak's arithmetic on made-up samples, and one short real run."""

import json
import os

import numpy as np
import pytest

from benchmarks.throughput import soak
from benchmarks.throughput.soak import Sample, judge, slope, speeds


def samples(growth: float = 0.0, most: int = 3) -> list[Sample]:
    """Two hours with so many megabytes in 10 minutes, after an hour's warm-up."""
    rng = np.random.default_rng(0)
    return [
        Sample(
            m, 700 + 5 * min(m, 30) + growth * m / 10 + rng.normal(0, 1), most, 60 * m
        )
        for m in np.linspace(0, 120, 1440)
    ]


def ticks(slower: float = 0.0) -> list[tuple[float, int]]:
    """A step every second, whose number falls by a share over two hours."""
    minutes = np.linspace(0, 120, 800)
    steps = 6000 * minutes * (1 - slower * minutes / 240)
    return [(float(m), int(s)) for m, s in zip(minutes, steps, strict=True)]


@pytest.mark.parametrize(
    ("seen", "clock", "kept"),
    [
        (samples(), ticks(), [True, True, True]),
        (samples(growth=0.7), ticks(), [True, True, True]),
        (samples(growth=1.5), ticks(), [False, True, True]),
        (samples(growth=-5), ticks(slower=0.05), [True, True, True]),
        (samples(), ticks(slower=0.3), [True, False, True]),
        (samples(most=5), ticks(), [True, True, False]),
    ],
)
def test_verdicts(seen, clock, kept):
    verdicts = judge(seen, clock, warm=60)
    assert [verdict.kept for verdict in verdicts] == kept
    assert [str(verdict)[:4] == "PASS" for verdict in verdicts] == kept


def test_verdict_values_by_hand():
    growth, change, most = judge(samples(growth=2), ticks(slower=0.3), warm=60)
    assert growth.value == pytest.approx(2, abs=0.1)
    # The speed 100 (1 - 0.3 m / 120) falls from 85 to 70 in the second hour.
    assert change.value == pytest.approx(-15 / 77.5, rel=0.01)
    assert most.value == 3
    assert slope([1, 2, 3], [5, 7, 9]) == pytest.approx(2)
    assert slope([1, 1], [5, 7]) == 0


def test_speeds_by_hand():
    ticks = [(0, 0), (1, 600), (2, 1800), (9, 9999)]
    # One processor in the first minute, half of one in the second.
    seen = [Sample(0, 1, 1, 10), Sample(1, 1, 1, 70), Sample(2, 1, 1, 100)]
    assert speeds(seen, ticks, 0, 2) == [(0.5, 10.0), (1.5, 40.0)]
    assert speeds(seen, [(0, 0)], 0, 2) == []


def test_a_process_is_read_from_proc(tmp_path):
    used = soak.resources(os.getpid())
    assert used is not None
    resident, cpu = used
    assert 10 < resident < 1e5 and cpu > 0
    assert soak.resources(2**22 + 1) is None


def test_a_folder_with_a_run_is_refused(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text("{}")
    assert soak.main(["--minutes", "0.5", "--logdir", str(tmp_path)]) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_nothing_after_the_warm_up_is_refused():
    with pytest.raises(ValueError, match="run for longer"):
        judge(samples(), ticks(), warm=121)


def test_a_run_that_ends_by_itself_is_no_soak(tmp_path, capsys):
    assert soak.main(["--minutes", "0.5", "--", "--rho", "7"]) == 2
    assert "ended with code 2: error: --rho 7" in capsys.readouterr().err


@pytest.mark.slow
def test_a_short_real_run(tmp_path, capsys):
    """A toy environment for a minute and a half: samples, speeds, files, verdicts."""
    out, png = tmp_path / "soak.json", tmp_path / "soak.png"
    words = ["--quick", "--minutes", "1.5", "--env", "toy-target"]
    assert soak.main([*words, "--json", str(out), "--png", str(png)]) == 0
    record = json.loads(out.read_text())
    assert record["what"] == "a quick check, not a measurement"
    assert len(record["samples"]) > 8 and len(record["verdicts"]) == 3
    assert all(sample["resident_mb"] > 100 for sample in record["samples"])
    assert 3 <= record["samples"][-1]["checkpoints"] <= 4
    assert all(part["value"] > 0 for part in record["steps_per_cpu_second"])
    assert png.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.count("limit") == 3
