import json
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from benchmarks import curves
from train.errors import UserError
from train.provenance import command_line, provenance, write_result


def make_run(path: Path, records: list[dict], seed: int = 3) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"env": "walker-walk", "seed": seed}))
    timing = [
        {"step": row["step"], "time/seconds": row["time"]}
        for row in records
        if "step" in row and "time" in row
    ]
    for name, rows in (("metrics.jsonl", records), ("timing.jsonl", timing)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (path / name).write_text(lines)
    return path


RECORDS = [
    {"step": 1000, "time": 30.0, "episode/return": 10.0},
    {"step": 2000, "time": 60.0, "eval/return_mean": 25.0, "loss": 1.0},
    {"step": 3000, "time": 90.0, "episode/return": 30.0},
    {"step": 4000, "time": 120.0, "eval/return_mean": 50.0, "episode/return": 40.0},
]


def test_series_of_a_run(tmp_path):
    curve = curves.read_curve(make_run(tmp_path / "run", RECORDS))
    assert curve.label == "walker-walk, seed 3"
    assert curve.evaluation == curves.Series([2000, 4000], [1.0, 2.0], [25.0, 50.0])
    assert curve.episodes == curves.Series(
        [1000, 3000, 4000], [0.5, 1.5, 2.0], [10.0, 30.0, 40.0]
    )


def test_resumed_run_drops_what_was_replaced(tmp_path):
    again = [
        {"step": 3000, "time": 200.0, "episode/return": 31.0},
        {"step": 4000, "time": 230.0, "eval/return_mean": 55.0},
    ]
    curve = curves.read_curve(make_run(tmp_path / "run", RECORDS + again))
    assert curve.evaluation.values == [25.0, 55.0]
    assert curve.episodes.values[0] == 10.0
    assert curve.episodes.values[-1] == 31.0
    assert 40.0 not in curve.episodes.values


def test_runs_of_one_name_are_told_apart(tmp_path):
    runs = [make_run(tmp_path / name, RECORDS) for name in ("plain", "penalized")]
    labels = [curve.label for curve in curves.read_curves(runs)]
    assert labels == ["walker-walk, seed 3 (plain)", "walker-walk, seed 3 (penalized)"]
    assert curves.read_curves(runs[:1])[0].label == "walker-walk, seed 3"


def test_a_name_is_no_formula(tmp_path):
    """Matplotlib would take what stands between two $ for one, and fail to read it."""
    runs = [make_run(tmp_path / name, RECORDS) for name in (r"$\frac$", "b")]
    found = curves.read_curves(runs)
    assert found[0].label == r"walker-walk, seed 3 (\$\frac\$)"
    curves.draw(found, quick=True).savefig(tmp_path / "x.png")


def test_half_written_last_line_is_left_out(tmp_path):
    run = make_run(tmp_path / "run", RECORDS)
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 5000, "eval/ret')
    assert curves.read_curve(run).evaluation.steps == [2000, 4000]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("metrics.jsonl", '{"step": 1}\nnonsense\n{"step": 2}\n', "line 2"),
        ("metrics.jsonl", "3\n", "expected an object"),
        ("metrics.jsonl", '{"step": 1, "time": 1.0}\n', "neither 'eval/return_mean'"),
        ("metrics.jsonl", '{"eval/return_mean": 1.0, "time": 1.0}\n', "no 'step'"),
        ("metrics.jsonl", None, "no such file"),
        ("config.json", '{"env": "walker-walk"}', "no 'env' and 'seed'"),
        ("config.json", None, "no such file"),
    ],
)
def test_bad_run_directory(tmp_path, name, content, says):
    run = make_run(tmp_path / "run", RECORDS)
    (run / name).unlink()
    if content is not None:
        (run / name).write_text(content)
    with pytest.raises(UserError, match=says) as raised:
        curves.read_curve(run)
    assert "\n" not in str(raised.value)


def test_picture_and_data(tmp_path, capsys):
    runs = [
        make_run(tmp_path / "a", RECORDS, seed=0),
        make_run(tmp_path / "b", RECORDS[:1], seed=1),
    ]
    png, data = tmp_path / "out" / "curves.png", tmp_path / "out" / "curves.json"
    arguments = [*map(str, runs), "--png", str(png), "--json", str(data)]
    assert curves.main([*arguments, "--random", "12.5", "--quick"]) == 0
    assert imread(png).shape[:2] == (270, 660)
    written = json.loads(data.read_text())
    assert written["random_return"] == 12.5
    assert [curve["label"] for curve in written["curves"]] == [
        "walker-walk, seed 0",
        "walker-walk, seed 1",
    ]
    assert written["curves"][0]["evaluation"]["minutes"] == [1.0, 2.0]
    assert written["provenance"]["machine"]["cores"] >= 1
    assert str(tmp_path) not in data.read_text()
    assert capsys.readouterr().err == ""


def test_lines_that_are_drawn():
    evaluation = curves.Series([0, 10], [0.0, 1.0], [1.0, 2.0])
    episodes = curves.Series(
        list(range(1000)), [float(i) for i in range(1000)], [0.0] * 1000
    )
    both = curves.Curve("both", evaluation, episodes)
    training = curves.Curve("training", curves.Series([], [], []), episodes)
    left, right = curves.draw([both, training], random_return=7.0, quick=True).axes
    for axes in (left, right):
        # Two lines a run, less the evaluation the second one lacks, and the baseline.
        assert len(axes.lines) == 4
        assert np.array_equal(axes.lines[-1].get_ydata(), [7.0, 7.0])
    assert np.array_equal(left.lines[1].get_xdata(), [0, 10])
    assert np.array_equal(right.lines[1].get_xdata(), [0.0, 1.0])
    assert np.size(left.lines[0].get_xdata()) == 200
    legend = left.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "both",
        "training (training episodes)",
        "random policy",
    ]


def test_errors_end_in_one_line_and_status_2(tmp_path, capsys):
    run = make_run(tmp_path / "run", RECORDS)
    assert curves.main([str(run)]) == 2
    assert "--png, --json" in capsys.readouterr().err
    assert curves.main([str(tmp_path / "absent"), "--json", "x.json"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_provenance_says_where_a_number_came_from():
    record = provenance()
    assert set(record) == {
        "date",
        "commit",
        "modified",
        "versions",
        "machine",
        "settings",
        "compiler",
        "command",
    }
    assert record["versions"]["jax"][0].isdigit()
    assert record["machine"]["devices"]
    assert (record["commit"] is None) == (record["modified"] is None)
    assert "devices" not in provenance(with_device=False)["machine"]


def test_command_line_names_no_folders(tmp_path):
    assert (
        command_line(["prog", "--out=/a/b/c.json", "/x/run", "--n", "3"])
        == "prog --out=c.json run --n 3"
    )
    here = Path.cwd() / "runs" / "one"
    assert command_line([str(here)]) == str(Path("runs", "one"))


def test_result_must_be_honest_json(tmp_path):
    with pytest.raises(ValueError, match="provenance"):
        write_result(tmp_path / "r.json", {"provenance": 1}, with_device=False)
    with pytest.raises(ValueError):
        write_result(tmp_path / "r.json", {"x": math.nan}, with_device=False)
    assert not (tmp_path / "r.json").exists()
