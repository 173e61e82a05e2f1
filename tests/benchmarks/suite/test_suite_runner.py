"""Many processes on one folder, failing runs, stops and kills."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_trainer import CHUNKS
from kills import PATIENCE, ROOT, assert_same_run, wait_for

from benchmarks.suite import runner
from benchmarks.suite.declare import Cell, load, read
from benchmarks.suite.place import Claim, Place
from benchmarks.suite.results import collect, merge
from benchmarks.suite.runner import Runner
from train.run_dir import record
from train.run_dir.lock import RunLock

COMMON = "--preset smoke --steps 400"


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setattr(runner, "TRAIN", "fake_trainer")
    monkeypatch.setattr(runner, "EVALUATE", "fake_trainer")
    monkeypatch.setattr(runner, "SENSITIVITY", "fake_trainer")
    monkeypatch.setattr(runner, "_LOOK", 0.02)
    monkeypatch.setattr(runner, "_SEARCH", 0.05)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests' / 'support'}")


def suite(**changes):
    record = {"common": COMMON, "tasks": ["toy-target"], "arms": {"a": "", "b": ""}}
    return read(record | {"seeds": [0, 1], "final_episodes": 2} | changes, "mine")


def starts(place):
    """From which chunk each start of a run went on."""
    log = place.run_dir.with_name(f"{place.run_dir.name}.starts.txt")
    return [int(line) for line in log.read_text().splitlines()]


def test_all_runs_are_made_and_a_second_start_makes_none(tmp_path, capsys):
    finished = []
    work = lambda: Runner(
        suite(), tmp_path, jobs=3, pin=False, on_finished=finished.append
    ).work()
    tally = work()
    assert tally.exit_code == 0 and not tally.failed
    assert finished == tally.finished and set(finished) == set(suite().cells())
    for cell in suite().cells():
        place = Place.of(tmp_path, cell)
        assert place.state(suite(), cell).kind == "done"
        assert starts(place) == [0]
    assert work().finished == []
    said = capsys.readouterr().out
    assert said.count("started ") == 4
    assert "finished     toy-target/a/seed-1 at step 400, 0.0 minutes" in said


def test_what_is_missing_of_a_trained_run_is_made_alone(tmp_path):
    cell = next(suite().cells())
    place = Place.of(tmp_path, cell)
    one = {"arms": {"a": ""}, "seeds": [0]}
    Runner(suite(**one), tmp_path, jobs=1, pin=False).work()
    more = suite(**one, sensitivity=True)
    assert place.state(more, cell).kind == "stopped"
    tally = Runner(more, tmp_path, jobs=1, pin=False).work()
    assert tally.finished == [cell] and starts(place) == [0]
    assert place.sensitivity() == {
        "kl": {"posterior": 2.0, "prior": 4.0},
        "jacobian": {"posterior": 1.0, "prior": 2.0},
    }


def test_a_failing_run_stops_no_other_and_is_tried_once_more(tmp_path, capsys):
    arms = {"bad": "--eval-episodes 7", "late": "--eval-episodes 8", "good": ""}
    of = suite(arms=arms, seeds=[0])
    bad, late, good = of.cells()
    first = Runner(of, tmp_path, jobs=1, pin=False).work()
    assert (first.exit_code, first.failed, first.finished) == (1, [bad, late], [good])
    error = capsys.readouterr().err
    assert f"failed       {bad}: exit status 1: error: it went wrong" in error
    second = Runner(of, tmp_path, jobs=1, pin=False).work()
    assert (second.exit_code, second.failed, second.finished) == (1, [bad], [late])
    third = Runner(of, tmp_path, jobs=1, pin=False).work()
    assert third.failed == [] and starts(Place.of(tmp_path, bad)) == [0, 0]
    state = Place.of(tmp_path, bad).state(of, bad)
    assert state.kind == "failed" and "it went wrong" in state.note
    # With other flags it is another matter.
    changed = suite(arms=arms | {"bad": ""}, seeds=[0])
    assert Runner(changed, tmp_path, jobs=1, pin=False).work().finished == [bad]


FORKS = {"arms": {"late": "--rho 1", "a": "", "b": ""}, "seeds": [0]}
FORKS |= {"forks": {"late": {"of": "a", "at": 150}}}


def test_a_fork_waits_for_the_checkpoint_that_it_goes_on_from(tmp_path, capsys):
    of = suite(**FORKS)
    late, a, _ = of.cells()
    place = Place.of(tmp_path, late)
    assert place.state(of, late).note == f"a fork of {a}"
    tally = Runner(of, tmp_path, jobs=2, pin=False).work()
    assert not tally.failed and set(tally.finished) == set(of.cells())
    # Checkpoints are at 40, 80, ...: the first at or after 150 is that of 160.
    assert starts(place) == [4] and place.forked_at() == 160
    config = record.read(place.run_dir / "config.json")
    assert config.origin.fork == str(Place.of(tmp_path, a).run_dir)
    assert (config.penalty.rho, config.seed, config.steps) == (1.0, 0, 400)
    assert place.state(of, late).kind == "done"
    found = collect(of, tmp_path)
    assert [run["forked_at"] for run in found] == [160, None, None]
    assert merge(of, [], found) == (found, [])
    assert Runner(of, tmp_path, jobs=2, pin=False).work().finished == []
    said = capsys.readouterr().out
    assert said.index(f"started      {a}") < said.index(f"started      {late}")


def test_a_fork_of_a_run_that_is_not_here_is_left_out(tmp_path, capsys):
    of = suite(**FORKS)
    late, a, b = of.cells()
    runner = Runner(of, tmp_path, jobs=1, pin=False, done=lambda cell: cell == a)
    assert runner.work().finished == [b]
    assert f"left out     {late}: {a} has no checkpoint" in capsys.readouterr().err
    failing = suite(**FORKS | {"arms": {"late": "", "a": "--eval-episodes 7"}})
    tally = Runner(failing, tmp_path / "2", jobs=1, pin=False).work()
    assert tally.failed == [a] and tally.finished == []


def test_another_run_in_the_place_of_a_fork_is_noticed(tmp_path):
    of = suite(**FORKS)
    late, a, _ = of.cells()
    place = Place.of(tmp_path, late)
    place.run_dir.mkdir(parents=True)
    record.write(of.config(late), place.run_dir / "config.json")
    assert place.other_settings(of, late) == [f"--fork:  -> {a}"]


def test_runs_that_are_known_or_in_use_are_left_alone(tmp_path):
    known, claimed, locked, free = suite().cells()
    claim = Claim.take(Place.of(tmp_path, claimed).beside("claim"))
    assert claim is not None
    assert Claim.take(Place.of(tmp_path, claimed).beside("claim")) is None
    with RunLock(Place.of(tmp_path, locked).run_dir):
        assert Place.of(tmp_path, locked).state(suite(), locked).kind == "running"
        assert Place.of(tmp_path, claimed).state(suite(), claimed).kind == "running"
        tally = Runner(
            suite(), tmp_path, jobs=4, pin=False, done={known}.__contains__
        ).work()
    assert tally.finished == [free]
    claim.drop()
    assert Place.of(tmp_path, claimed).state(suite(), claimed).kind == "missing"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_each_run_has_a_core_to_itself(tmp_path, monkeypatch, capsys):
    usual = os.sched_getaffinity(0)
    core = min(usual)
    seen, real = [], subprocess.Popen

    def noting(*args, **options):
        child = real(*args, **options)
        path = Path(f"/proc/{child.pid}/status")
        lines = [x for x in path.read_text().splitlines() if "allowed_list" in x]
        seen.append(lines[0].split()[1])
        return child

    monkeypatch.setattr(subprocess, "Popen", noting)
    monkeypatch.setattr(runner, "usable", lambda: [core])
    # Two side by side are asked for, but there is one core.
    tally = Runner(suite(arms={"a": ""}), tmp_path, jobs=2, pin=True).work()
    assert len(tally.finished) == 2 and set(seen) == {str(core)}
    said = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert said == ["started", "finished"] * 2
    assert os.sched_getaffinity(0) == usual


REAL = """
import sys
from benchmarks.suite import __main__ as command, declare, runner
command.default_backend = lambda: "cpu"
sys.exit(command.main(sys.argv[1:]))
"""
# Reading flags without the tasks, which would bring in JAX and MuJoCo.
PROGRAM = REAL.replace(
    "command.default",
    "import fake_trainer\n"
    'runner.TRAIN = runner.EVALUATE = runner.SENSITIVITY = "fake_trainer"\n'
    "declare.parse = fake_trainer.parse\n"
    "command.default",
)


def command(folder, *words, program=PROGRAM):
    """The suite `mine.toml` in a process of its own."""
    path = folder / "mine.toml"
    if not path.exists():
        path.write_text(
            f'common = "{COMMON}"\ntasks = ["toy-target"]\nseeds = [0, 1, 2]\n'
            'final_episodes = 2\n[arms]\na = ""\nb = ""\n'
        )
    return subprocess.Popen(
        [sys.executable, "-c", program, str(path), "--folder", str(folder), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )


def ended(process):
    said, _ = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in said, said
    return process.returncode, said


def six():
    return [Cell("toy-target", arm, seed) for seed in (0, 1, 2) for arm in "ab"]


@pytest.mark.long
def test_suites_started_together_make_no_run_twice(tmp_path):
    processes = [command(tmp_path, "--jobs", "2") for _ in range(2)]
    outcomes = [ended(process) for process in processes]
    assert [code for code, _ in outcomes] == [0, 0]
    said = outcomes[0][1] + outcomes[1][1]
    for cell in six():
        assert starts(Place.of(tmp_path, cell)) == [0]
        assert said.count(f"finished     {cell} ") == 1
    result = json.loads((tmp_path / "suite.json").read_text())
    assert len(result["runs"]) == 6


def running(folder):
    """How many runs have begun a second chunk."""
    logs = folder.glob("toy-target/*/seed-*/metrics.jsonl")
    return sum(len(log.read_text().splitlines()) >= 2 for log in logs)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_suite_waits_for_checkpoints_and_goes_on(tmp_path, number):
    process = command(tmp_path, "--jobs", "2")
    assert wait_for(process, lambda: running(tmp_path) > 0)
    process.send_signal(number)
    code, said = ended(process)
    assert code == (130 if number == signal.SIGINT else 143)
    assert "stopping after the checkpoints of the runs" in said
    assert said.count("stopped      toy-target") >= 1 and "failed" not in said
    assert not any(Place.of(tmp_path, cell).in_use() for cell in six())
    code, said = ended(command(tmp_path))
    assert code == 0 and "from step" in said
    found = [starts(Place.of(tmp_path, cell)) for cell in six()]
    # What was trained before the stop is not trained again.
    assert any(len(each) == 2 and 0 < each[1] < CHUNKS for each in found)


@pytest.mark.long
def test_runs_of_a_killed_suite_are_nobody_elses_until_they_end(tmp_path):
    process = command(tmp_path, "--jobs", "1")
    assert wait_for(process, lambda: running(tmp_path) > 0)
    process.kill()
    process.communicate()
    orphan = Place.of(tmp_path, six()[0])
    assert orphan.in_use()
    code, _ = ended(command(tmp_path, "--jobs", "1"))
    assert code == 0
    deadline = time.monotonic() + PATIENCE
    while orphan.in_use():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert ended(command(tmp_path))[0] == 0
    for cell in six():
        assert starts(Place.of(tmp_path, cell)) == [0]
        assert Place.of(tmp_path, cell).state(load_mine(tmp_path), cell).kind == "done"


def load_mine(folder):
    return load(str(folder / "mine.toml"))


@pytest.mark.slow
def test_a_killed_suite_of_real_runs_resumes(tmp_path):
    """SIGKILL to the suite and its runs: the same results, bit for bit."""
    (tmp_path / "mine.toml").write_text(
        'common = "--preset smoke --steps 600 --save-every 100"\n'
        'tasks = ["toy-target"]\nfinal_episodes = 2\n[arms]\na = ""\n'
    )
    cell = Cell("toy-target", "a", 0)
    place = Place.of(tmp_path, cell)
    process = command(tmp_path, program=REAL)
    assert wait_for(process, lambda: any((place.run_dir / "checkpoints").glob("0*00*")))
    holder = json.loads((place.run_dir / "lock").read_text())["pid"]
    process.kill()
    os.kill(holder, signal.SIGKILL)
    process.communicate()
    code, said = ended(command(tmp_path, program=REAL))
    assert code == 0 and f"started      {cell}" in said and "from step" in said
    first = json.loads((tmp_path / "suite.json").read_text())["runs"][0]
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "mine.toml").write_text((tmp_path / "mine.toml").read_text())
    assert ended(command(whole, program=REAL))[0] == 0
    second = json.loads((whole / "suite.json").read_text())["runs"][0]
    assert first["curve"] == second["curve"]
    assert first["final_return"] == second["final_return"]
    assert_same_run(place.run_dir, Place.of(whole, cell).run_dir)
