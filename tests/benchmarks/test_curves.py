import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from toy_run import shared

from benchmarks import curves
from benchmarks.curves.__main__ import main
from train.config.cli import parse
from train.errors import UserError
from train.run_dir.provenance import command_line, provenance, write_result


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
    assert found[0].label == r"walker-walk, seed 3 ($\frac$)"
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
    arguments = [*map(str, runs), "--each", "--png", str(png), "--json", str(data)]
    assert main([*arguments, "--random", "12.5", "--quick"]) == 0
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
    assert main([str(run), "--png", str(tmp_path / "x.none")]) == 2
    assert capsys.readouterr().err.startswith(f"error: --png {tmp_path}/x.none: cannot")
    assert main([str(tmp_path / "absent"), "--json", "x.json"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def configure(run: Path, **changes: object) -> Path:
    path = run / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return run


def make_seeds(path: Path, *records: list[dict]) -> Path:
    """A run with several agents, as `--seeds` leaves it."""
    make_run(path, records[0])
    (path / "metrics.jsonl").unlink()
    for index, rows in enumerate(records):
        (path / f"seed_{index}").mkdir()
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (path / f"seed_{index}" / "metrics.jsonl").write_text(lines)
    return path


def shifted(value: float) -> list[dict]:
    key = "eval/return_mean"
    return [row | ({key: row[key] + value} if key in row else {}) for row in RECORDS]


def test_agents_of_one_run_are_a_mean_and_its_spread(tmp_path):
    run = make_seeds(tmp_path / "run", RECORDS, shifted(6.0), shifted(6.0))
    (curve,) = curves.read_curves([run])
    assert curve.label == "walker-walk, 3 seeds" and curve.seeds == [3, 4, 5]
    found = curve.evaluation
    assert (found.steps, found.minutes) == ([2000, 4000], [1.0, 2.0])
    assert found.values == [29.0, 54.0] and found.agents == [3, 3]
    assert found.spread == pytest.approx([math.sqrt(12)] * 2)
    assert [c.label for c in curves.read_curves([run], each=True)] == [
        f"walker-walk, seed {seed}" for seed in (3, 4, 5)
    ]
    left, _ = curves.draw([curve], quick=True).axes
    (band,) = left.collections
    heights = np.asarray(band.get_paths()[0].vertices)[:, 1]
    assert heights.min() == pytest.approx(29 - math.sqrt(12))
    assert heights.max() == pytest.approx(54 + math.sqrt(12))


def test_agents_that_are_not_as_far_count_as_far_as_they_got(tmp_path):
    late = [{"step": 3000, "time": 45.0, "eval/return_mean": 47.5}]
    runs = [make_run(tmp_path / "a", RECORDS, seed=0)]
    runs.append(make_run(tmp_path / "b", RECORDS[:2] + late, seed=1))
    (curve,) = curves.read_curves(runs)
    found = curve.evaluation
    assert found.steps == [2000, 3000, 4000] and found.agents == [2, 2, 1]
    assert found.values == [25.0, (37.5 + 47.5) / 2, 50.0]
    assert found.spread[0] == found.spread[2] == 0.0
    row = curves.table([curve]).splitlines()[-1]
    assert "25 ± 0" in row and "50 ± 0" not in row


def test_runs_are_grouped_into_arms_named_by_what_differs(tmp_path):
    plain, penalized = {"implementation": "none"}, {"implementation": "xla", "rho": 0.5}
    runs = []
    for seed in (0, 1):
        for name, penalty in (("plain", plain), ("penalized", penalized)):
            run = make_run(tmp_path / f"{name}-{seed}", RECORDS, seed=seed)
            runs.append(configure(run, penalty=penalty, logdir=str(run), steps=seed))
    found = curves.read_curves(runs)
    assert [curve.seeds for curve in found] == [[0, 1], [0, 1]]
    first, second = (curve.label for curve in found)
    assert first == "walker-walk, --penalty none, 2 seeds"
    assert second == "walker-walk, --penalty xla, 2 seeds"


def test_a_run_older_than_a_setting_has_its_default(tmp_path):
    """Seeds that were trained before and after a flag was added are one arm."""
    runs = [
        configured(tmp_path / "a", "--env cartpole-balance --seed 1"),
        configured(tmp_path / "b", "--env cartpole-balance --seed 2"),
    ]
    path = runs[0] / "config.json"
    old = json.loads(path.read_text())
    del old["origin"], old["optimizer"]["agc_floor"], old["replay_context"]
    path.write_text(json.dumps(old))
    (curve,) = curves.read_curves(runs)
    assert curve.label == "cartpole-balance, 2 seeds"


def test_settings_of_the_penalty_name_those_that_have_one(tmp_path):
    words = ["none", "xla --rho 0.5", "xla --rho 0.25"]
    base = "--env cartpole-balance --preset laptop --penalty"
    runs = [configured(tmp_path / str(i), f"{base} {x}") for i, x in enumerate(words)]
    assert [curve.label for curve in curves.read_curves(runs)] == [
        "cartpole-balance, --penalty none, seed 0",
        "cartpole-balance, --penalty xla, --rho 0.5, seed 0",
        "cartpole-balance, --penalty xla, --rho 0.25, seed 0",
    ]


def test_a_label_says_what_is_unusual_and_not_what_is_left_out(tmp_path):
    core = "--penalty xla --penalty-target core"
    words = ["--penalty none", core, f"{core} --lambda0 0.05"]
    words += ["--augment noise:0.05 --penalty none", f"{words[2]} --lambda-min 0.01"]
    base = "--env cartpole-balance --preset laptop"
    runs = [configured(tmp_path / str(i), f"{base} {x}") for i, x in enumerate(words)]
    core = core.replace(" --", ", --")
    words[1:3] = f"{core}, --lambda0 0.01", f"{core}, --lambda0 0.05"
    words[3:] = words[3].replace(" --", ", --"), f"{words[2]}, --lambda-min 0.01"
    found = [curve.label for curve in curves.read_curves(runs)]
    assert found == [f"cartpole-balance, {x}, seed 0" for x in words]


def test_settings_of_a_penalty_that_is_off_do_not_count(tmp_path):
    words = "--env cartpole-balance --preset laptop --penalty none --rho"
    runs = [
        configured(tmp_path / "a", f"{words} 0.5 --seed 1"),
        configured(tmp_path / "b", f"{words} 0.25 --seed 2"),
    ]
    (curve,) = curves.read_curves(runs)
    assert curve.label == "cartpole-balance, 2 seeds"


def configured(path: Path, words: str) -> Path:
    run = make_run(path, RECORDS)
    config = parse(words.split(), "cpu")
    (run / "config.json").write_text(json.dumps(asdict(config)))
    return run


def test_runs_with_different_presets_name_the_preset(tmp_path):
    words = [
        "--env cartpole-balance --preset laptop",
        "--env cartpole-balance --preset smoke --batch-size 4",
        "--env cartpole-balance --preset gpld --penalty-target core",
    ]
    runs = [configured(tmp_path / str(i), x) for i, x in enumerate(words)]
    assert [curve.label for curve in curves.read_curves(runs)] == [
        "cartpole-balance, preset laptop, seed 0",
        "cartpole-balance, preset smoke, --batch-size 4, seed 0",
        "cartpole-balance, preset gpld, --penalty-target core, seed 0",
    ]


def test_runs_with_pallas_and_with_xla_are_one_arm(tmp_path):
    words = "--env cartpole-balance --preset laptop --penalty"
    runs = [
        configured(tmp_path / "a", f"{words} pallas --seed 1"),
        configured(tmp_path / "b", f"{words} xla --seed 2"),
    ]
    (curve,) = curves.read_curves(runs)
    assert curve.label == "cartpole-balance, 2 seeds"


def test_a_long_legend_leaves_the_panels_their_width(tmp_path):
    run = configured(tmp_path / "a", "--env cartpole-balance")
    found = [replace(curves.read_curve(run), label="--flag value, " * 20)] * 4
    figure = curves.draw(found, quick=True)
    figure.draw_without_rendering()
    left, right = figure.axes
    assert left.get_position().width > 0.35 < right.get_position().width
    assert left.get_position().height * figure.get_figheight() > 3  # inches
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0
    assert box.y1 < left.get_window_extent().y0


def test_another_metric_and_a_hint_for_one_that_is_not_there(tmp_path, capsys):
    rows = [{"step": 1, "train/penalty/posterior": 0.5, "train/lambda/posterior": 1}]
    run = make_run(tmp_path / "run", rows)
    (curve,) = curves.read_curves([run], metric="train/penalty/posterior")
    assert curve.evaluation.values == [0.5] and curve.episodes.steps == []
    for given, hint in [
        ("train/penlaty/posterior", "; nearest valid: train/penalty/posterior"),
        ("penalty", "; allowed: train/penalty/posterior"),
    ]:
        assert main([str(run), "--metric", given]) == 2
        err = capsys.readouterr().err
        assert err == f"error: --metric {given}: {run} has no such metric{hint}\n"


def test_a_folder_of_runs_is_no_run(tmp_path, capsys):
    make_run(tmp_path / "runs" / "one", RECORDS)
    assert main([str(tmp_path / "runs")]) == 2
    assert f"it holds 1; allowed: {tmp_path}/runs/*" in capsys.readouterr().err


@pytest.mark.long
def test_a_real_run_is_a_table_without_any_output(tmp_path, capsys):
    """And a curve begins with the untrained agent."""
    run = tmp_path / "run"
    shared().train(run)
    capsys.readouterr()
    assert main([str(run)]) == 0
    out = capsys.readouterr().out
    assert "toy-target, seed 0" in out and out.splitlines()[0].startswith("return")
    (curve,) = curves.read_curves([run])
    assert curve.evaluation.steps[0] < 100 and len(curve.evaluation.steps) == 3
    assert f"{curve.evaluation.values[-1]:.4g}" in out
    # The same run as two agents: the same mean, without spread.
    for seed in ("seed_0", "seed_1"):
        (run / seed).mkdir()
        (run / seed / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes())
    (run / "metrics.jsonl").unlink()
    png = tmp_path / "curves.png"
    assert main([str(run), "--metric", "train/loss/dyn", "--png", str(png)]) == 0
    assert "toy-target, 2 seeds" in capsys.readouterr().out and png.stat().st_size > 1e4
    (both,) = curves.read_curves([run])
    assert both.evaluation.values == curve.evaluation.values
    assert both.evaluation.spread == [0.0] * 3


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
    installed = str(Path(sys.executable).with_name("pytest"))
    assert command_line([installed, "--record=x"]) == "pytest --record=x"


def test_result_must_be_honest_json(tmp_path):
    with pytest.raises(ValueError, match="provenance"):
        write_result(tmp_path / "r.json", {"provenance": 1}, with_device=False)
    with pytest.raises(ValueError):
        write_result(tmp_path / "r.json", {"x": math.nan}, with_device=False)
    assert not (tmp_path / "r.json").exists()
