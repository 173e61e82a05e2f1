"""Records of finished runs: read, merged with those published before, reported."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from fake_trainer import CHUNKS, evaluate, measure, write_chunk
from matplotlib.image import imread

from benchmarks.cli import QUICK, WAS_QUICK
from benchmarks.suite import draw, results
from benchmarks.suite.__main__ import main
from benchmarks.suite.declare import Cell, read
from benchmarks.suite.place import Place
from benchmarks.suite.report import NO_RUNS, report, smoothness_table, status_table
from benchmarks.suite.summary import summarize
from train.run_dir import record

SUITE = {
    "title": "A suite",
    "common": "--preset smoke --steps 400",
    "tasks": ["toy-target", "cheetah-run"],
    "seeds": [0, 1],
    "baseline": "none",
    "final_episodes": 4,
    "arms": {"none": "--penalty none", "gpld": "--rho 0.25"},
}


def suite(**changes):
    return read(SUITE | changes, "mine")


def make(folder, cell, *, of=None, chunks=CHUNKS, episodes=4):
    """A run as its programs leave it."""
    of = suite() if of is None else of
    place = Place.of(folder, cell)
    place.run_dir.mkdir(parents=True)
    config = dataclasses.replace(of.config(cell), logdir=str(place.run_dir))
    record.write(config, place.run_dir / "config.json")
    for chunk in range(chunks):
        write_chunk(place.run_dir, config, chunk)
    if episodes and chunks:
        evaluate(place.run_dir, place.beside("json"), episodes)
    return place


def test_a_finished_run(tmp_path):
    cell = Cell("toy-target", "gpld", 1)
    place = make(tmp_path, cell)
    run = results.read_run(suite(), cell, place)
    assert (run["task"], run["arm"], run["seed"], run["steps"]) == (*cell, 400)
    assert run["final_return"] == 101.0 and run["final_std"] == 1.0
    assert run["curve"]["steps"] == list(range(40, 401, 40))
    assert run["curve"]["returns"] == [10.0 * i + 1 for i in range(1, 11)]
    assert run["training"]["returns"][-1] == 45.0
    assert run["jacobian"] == 0.5 and run["minutes"] == 9.0
    assert run["commit"] == "abc" and run["cpu"] == "a CPU"
    assert run["flags"].endswith("--rho 0.25 --seed 1")
    assert run["config"]["penalty"]["rho"] == 0.25
    assert str(tmp_path) not in json.dumps(run)


def test_without_final_episodes_the_last_evaluations_count(tmp_path):
    cell = Cell("toy-target", "none", 0)
    of = suite(final_episodes=0)
    run = results.read_run(of, cell, make(tmp_path, cell, of=of, episodes=0))
    assert run["final_return"] == 95.0  # of steps 360 and 400
    assert run["final_std"] is None


@pytest.mark.parametrize(
    ("chunks", "episodes", "kind"),
    [(0, 0, "missing"), (4, 0, "stopped"), (10, 0, "stopped"), (10, 3, "stopped")],
)
def test_a_run_that_is_not_done(tmp_path, chunks, episodes, kind):
    cell = Cell("toy-target", "none", 0)
    place = make(tmp_path, cell, chunks=chunks, episodes=episodes)
    assert place.state(suite(), cell).kind == kind
    assert results.collect(suite(), tmp_path) == []


def test_states(tmp_path):
    cell = Cell("toy-target", "none", 0)
    place = make(tmp_path, cell)
    assert place.state(suite(), cell) == ("done", 400, "")
    longer = suite(common="--preset smoke --steps 800 --replay-size 200")
    assert place.state(longer, cell).kind == "stopped"  # and can go on
    other = place.state(suite(common="--preset smoke --train-ratio 8"), cell)
    assert other == ("other", 400, "--train-ratio: 4.0 -> 8.0")
    (place.run_dir / "checkpoints" / f"{400:012d}").rmdir()
    assert place.state(suite(), cell).kind == "stopped"
    place.beside("log").write_text("Traceback\n  x\nValueError: bad\n\n")
    place.note_failure(suite().words(cell), 1)
    assert place.state(suite(), cell) == (
        "failed",
        400,
        "exit status 1: ValueError: bad",
    )


def test_known_runs_are_merged_if_their_settings_agree(tmp_path):
    cells = list(suite().cells())
    for cell in cells[:3]:
        make(tmp_path, cell)
    runs = results.collect(suite(), tmp_path)
    first, second, third = (json.loads(json.dumps(run)) for run in runs)
    second["config"]["train_ratio"] = 9.0
    third["final_return"] = 7.0
    stranger = third | {"arm": "core"}
    merged = results.merge(suite(), runs[:1], [first, second, third, stranger])
    assert merged.runs == [runs[0], third]
    assert merged.refused == [
        "toy-target/gpld/seed-0: --train-ratio: 9.0 -> 4.0",
        "cheetah-run/core/seed-0: not in this suite",
    ]


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("steps", 300, "--steps: 300 -> 400"),
        ("eval_episodes", 9, "--eval-episodes: 9 -> 1"),
        ("env", "walker-run", "--env: walker-run -> toy-target"),
        ("penalty.rho", 1.0, "--rho: 1.0 -> 0.25"),
        ("penalty.new", 1.0, "config: unknown key penalty.new"),
        ("log_every", 7, None),
        ("penalty.implementation", "pallas", None),  # the same computation
    ],
)
def test_what_makes_a_known_run_another_one(tmp_path, path, value, says):
    cell = Cell("toy-target", "gpld", 0)
    run = results.read_run(suite(), cell, make(tmp_path, cell))
    *parts, name = path.split(".")
    inside = run["config"]
    for part in parts:
        inside = inside[part]
    inside[name] = value
    found = results.mismatch(suite(), cell, run)
    assert found == [] if says is None else any(x.startswith(says) for x in found)


def test_a_setting_from_after_the_run_has_its_usual_value(tmp_path):
    cell = Cell("toy-target", "gpld", 0)
    run = results.read_run(suite(), cell, make(tmp_path, cell))
    del run["config"]["augment"], run["config"]["penalty"]["core_carry"]
    assert results.mismatch(suite(), cell, run) == []
    of = suite(arms={"none": "", "gpld": "--rho 0.25 --augment noise:0.1"})
    assert results.mismatch(of, cell, run) == ["--augment: none -> noise:0.1"]


def suite_file(folder):
    path = folder / "mine.toml"
    text = [f"{k} = {json.dumps(v)}" for k, v in SUITE.items() if k != "arms"]
    arms = [f'{k} = "{v}"' for k, v in SUITE["arms"].items()]
    path.write_text("\n".join([*text, "[arms]", *arms]))
    return str(path)


def test_command_writes_prints_and_draws(tmp_path, capsys):
    """Half of the runs on this machine, half known from another."""
    cells = list(suite().cells())
    here, there = tmp_path / "here", tmp_path / "there"
    for index, cell in enumerate(cells):
        make(here if index % 2 else there, cell)
    name = suite_file(tmp_path)
    first, out = tmp_path / "first.json", tmp_path / "out.json"
    base = [name, "--aggregate-only", "--folder"]
    assert main([*base, str(there), "--json", str(first)]) == 0
    assert "no aggregates" in capsys.readouterr().out  # gpld is in the other half
    words = [*base, str(here), "--known", str(first), "--json", str(out)]
    assert main([*words, "--png", str(tmp_path / "x.png")]) == 0
    said = capsys.readouterr().out
    assert said.startswith("A suite: 2 seeds\n")
    assert "100 ± 1 (n = 2)" in said.replace("101", "100")
    assert imread(tmp_path / "x.png").ndim == imread(tmp_path / "x-aggregate.png").ndim

    # The folder is lost: the file alone knows its runs.
    assert main([*base, str(tmp_path / "new"), "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert [results.cell_of(run) for run in result["runs"]] == cells
    assert result["what"] == "a measurement" and result["provenance"]["date"]
    found = result["aggregates"]
    assert found["tasks"] == SUITE["tasks"]
    assert found["seeds"]["gpld"] == {"toy-target": 2, "cheetah-run": 2}
    assert found["normalized"]["none"]["mean"][0] == pytest.approx(1.0)
    assert found["improvement"]["gpld"]["paired"] == [0.5, 0.5, 0.5]  # all ties
    assert len(found["efficiency"]["steps"]) == 24
    # A line for each run, so that a commit shows what came.
    lines = out.read_text().splitlines()
    assert sum(line.startswith('  {"task"') for line in lines) == len(cells)


def test_files_of_results_that_are_refused(tmp_path, capsys):
    name = suite_file(tmp_path)
    words = [name, "--aggregate-only", "--folder", str(tmp_path / "runs")]
    (tmp_path / "other.json").write_text('{"rows": []}')
    (tmp_path / "part.json").write_text('{"what": "a measurement", "runs": [{}]}')
    for given, says in {
        "--json other.json": "other.json: no result of a suite",
        "--json part.json": "part.json: no result of a suite",
        "--known none.json": "--known .*none.json: no such file",
    }.items():
        flag, file = given.split()
        assert main([*words, flag, str(tmp_path / file)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert re.search(says, error), error
    assert (tmp_path / "other.json").read_text() == '{"rows": []}'


def test_results_are_not_written_over_by_another_suite(tmp_path, capsys):
    """A changed flag may not cost the runs that were made before."""
    make(tmp_path / "runs", next(suite().cells()))
    name, out = suite_file(tmp_path), tmp_path / "out.json"
    words = [name, "--aggregate-only", "--json", str(out), "--folder"]
    assert main([*words, str(tmp_path / "runs")]) == 0
    before = out.read_text()
    Path(name).write_text(Path(name).read_text().replace("--steps 400", "--steps 500"))
    assert main([*words, str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err
    assert (
        "out.json: holds 1 runs that are not those" in error
        and "--steps: 400 ->" in error
    )
    assert out.read_text() == before
    other = ["--json", str(tmp_path / "other.json"), "--known", str(out)]
    assert main([name, "--aggregate-only", *other, "--folder", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert "not merged: toy-target/none/seed-0: " in captured.err
    assert NO_RUNS in captured.out


def test_quick_results_stay_apart(tmp_path, capsys):
    name = suite_file(tmp_path)
    words = [name, "--aggregate-only", "--folder", str(tmp_path / "runs")]
    assert main([*words, "--quick"]) == 0
    assert main(words) == 2
    assert "holds a quick check, not a measurement" in capsys.readouterr().err
    path = tmp_path / "runs" / "suite.json"
    path.write_text(path.read_text().replace(QUICK, WAS_QUICK))
    assert main([*words, "--quick"]) == 0
    capsys.readouterr()
    path.write_text(path.read_text().replace(QUICK, WAS_QUICK))
    assert main(words) == 2
    assert f"holds {WAS_QUICK}" in capsys.readouterr().err


def test_no_runs_are_said(tmp_path):
    of = suite()
    written = results.write(of, [], tmp_path / "x.json", quick=False)
    assert report(written) == NO_RUNS
    assert draw.aggregate(written) is None
    draw.tasks(written).savefig(tmp_path / "x.png")


def test_status_says_what_is_left(tmp_path):
    of = suite()
    cells = list(of.cells())
    make(tmp_path, cells[0])
    make(tmp_path, cells[1], chunks=5)
    said = status_table(of, tmp_path, [], jobs=2)
    assert "1 done, 1 stopped, 6 missing of 8" in said
    # 400 steps took 540 s: 200 and 6 × 400 are left, two runs side by side. (The half
    # run was faster: 200 steps in 240 s; the median of both counts.)
    speed = (400 / 540 + 200 / 240) / 2
    minutes = round(2600 / speed / 2 / 60)
    assert f"{minutes // 60} h {minutes % 60:02} min left with 2 side by side" in said
    known = results.collect(of, tmp_path)
    assert "1 done, 7 missing" in status_table(of, tmp_path / "new", known, jobs=1)


def test_a_baseline_that_earns_nothing_normalizes_nothing(tmp_path):
    cells = list(suite().cells())
    for cell in cells:
        make(tmp_path, cell)
    runs = results.collect(suite(), tmp_path)
    for run in runs:
        run["final_return"] = 0.0
    found = summarize(runs, arms=["none", "gpld"], baseline="none")
    assert "raw" in found and "normalized" not in found
    written = results.write(suite(), runs, tmp_path / "x.json", quick=False)
    assert "–" in report(written)
    assert draw.aggregate(written) is not None


def test_smoothness_is_a_geometric_mean_of_ratios(tmp_path):
    of = suite(sensitivity=True)
    for cell in of.cells():
        place = make(tmp_path, cell, of=of)
        measure(place.run_dir, place.beside("sensitivity.json"))
    runs = results.collect(of, tmp_path)
    assert len(runs) == 8 and runs[0]["sensitivity"]["kl"]["prior"] == 4.0
    for run in runs:
        if run["arm"] == "gpld":  # a half in one task, an eighth in the other
            run["jacobian"] /= 2 if run["task"] == "toy-target" else 8
    written = results.write(of, runs, tmp_path / "x.json", quick=False)
    lines = smoothness_table(written).splitlines()
    assert lines[2].split("|")[2:4] == [" 1.00 ", " 0.25 "]
    assert lines[5].split("|")[1].strip() == "KL by perturbation's norm, posterior"
    del runs[0]["sensitivity"]
    assert results.merge(of, [], runs).refused == [
        f"{results.cell_of(runs[0])}: sensitivity: not measured"
    ]
