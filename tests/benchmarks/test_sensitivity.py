"""`python -m benchmarks.sensitivity` on saved runs."""

import json

import pytest
from saved_run import configured, random_state, save_run

from benchmarks.sensitivity.__main__ import draw, main, summary


def test_arms_of_two_seeds(tmp_path, capsys):
    runs = []
    for name, words in (
        ("a0", "--penalty none --seed 0"),
        ("a1", "--penalty none --seed 1"),
        ("b0", "--penalty xla --seed 0"),
    ):
        config = configured(f"--env toy-target {words}")
        runs.append(save_run(tmp_path / name, config, random_state(config)))
    out = tmp_path / "out.json"
    assert main([*map(str, runs), "--quick", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    result = json.loads(out.read_text())
    rows = result["rows"]
    assert [row["run"] for row in rows] == ["a0", "a1", "b0"]
    assert rows[0]["arm"] == rows[1]["arm"] != rows[2]["arm"]
    assert "2 seeds" in rows[0]["arm"] and "kl posterior" in printed
    for row in rows:
        for part in ("posterior", "prior"):
            assert len(row["kl"][part]) == len(result["magnitudes"])
            assert min(row["kl"][part]) > 0 and row["jacobian"][part] > 0
    first, _ = summary(rows)
    assert first["agents"] == 2
    # The same parameters on the same trajectories: the spread over seeds is zero.
    assert first["kl posterior"] == pytest.approx((first["kl posterior"][0], 0))
    assert len(draw(rows).axes) == 4


def test_a_folder_without_a_run(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
