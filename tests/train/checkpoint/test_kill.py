"""`kill -9` on real runs: the same command goes on, bitwise as if nothing had been."""

import random
import signal

import pytest
from kills import Moment, assert_same_run, finish, kill_at, start, wait_for

from train.checkpoint.checkpointer import Checkpointer
from train.main import main
from train.run_dir.metrics import jsonl

TINY = "--preset smoke --env toy-target --penalty none --log-every 40 --save-every 40"

# The sizes of the laptop preset; only shorter, and saved more often.
LAPTOP = (
    "--preset laptop --env cartpole-balance --steps 8000 --log-every 250 "
    "--save-every 500 --eval-every 4000 --eval-episodes 1"
)


@pytest.mark.slow
def test_a_kill_inside_a_save_and_a_second_process(tmp_path, capsys, tries):
    """And while the run goes on, its directory takes nobody else."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    unbroken = start(TINY, whole)  # beside the other: half the time
    rng = random.Random(0)
    tally = kill_at(["save"], TINY, broken, rng=rng, longest=0.1, saves=(3, 3))
    tries.update(tally)
    assert tally == {"inside": 1}

    process = start(TINY, broken)
    lock = broken / "lock"
    assert wait_for(process, lambda: f'"pid": {process.pid}' in lock.read_text())
    process.send_signal(signal.SIGSTOP)  # or it might be done before we are refused
    assert main([*TINY.split(), "--logdir", str(broken)]) == 2
    process.send_signal(signal.SIGCONT)
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"in use by process {process.pid} on host" in err

    assert "resuming at environment step" in finish(process, broken)
    finish(unbroken, whole)
    assert_same_run(whole, broken)
    assert len(jsonl.read(broken / "starts.jsonl")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_stop_signal_to_a_process(tmp_path, number):
    """It finishes its chunk, saves and exits with 143; the same command goes on."""
    words = TINY.replace("--save-every 40", "--save-every 1000")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(start(words, whole), whole)
    process = start(words, broken)
    record = broken / "metrics.jsonl"
    assert wait_for(process, lambda: record.exists() and record.stat().st_size > 0)
    process.send_signal(number)
    assert process.wait() == 143
    steps = Checkpointer(broken).steps()
    assert steps == [jsonl.read(record)[-1]["step"]] and steps[0] < 400
    said = finish(start(words, broken), broken)
    assert f"stopped by {number.name} at environment step {steps[0]}" in said
    assert f"resuming at environment step {steps[0]}" in said
    assert_same_run(whole, broken)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_laptop_run_is_killed_five_times(tmp_path_factory, tries, seed):
    """With its five seeds: 25 kills, 15 of them timed to hit a save."""
    base = tmp_path_factory.getbasetemp()
    whole, broken = base / "laptop-whole", base / f"laptop-broken-{seed}"
    if not (whole / "config.json").exists():
        finish(start(LAPTOP, whole), whole)
    rng = random.Random(seed)
    moments: list[Moment] = ["save", "save", "save", "chunk", "start"]
    rng.shuffle(moments)
    tally = kill_at(moments, LAPTOP, broken, rng=rng, longest=3.0)
    finish(start(LAPTOP, broken), broken)
    tries.update(tally)
    assert_same_run(whole, broken)
    assert tally["done"] == 0 and tally.total() == 5
    assert tally["inside"] >= 1
