"""A real file system of 40 MB that fills up. Needs the right to mount one."""

import contextlib
import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Iterator

import jax.numpy as jnp
import pytest
from kills import finish, start, wait_for

from train.checkpoint.checkpointer import Checkpointer
from train.main import main
from train.run_dir.metrics import jsonl
from train.run_dir.metrics.logger import Logger

TINY = "--preset smoke --env toy-target --penalty none --log-every 40 --save-every 40"
MB = 1_000_000


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A tmpfs of 40 MB; the test is skipped where it cannot be mounted."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(place)]
    if shutil.which("mount") is None:
        pytest.skip("a tmpfs of 40 MB cannot be mounted here: there is no mount")
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a tmpfs of 40 MB cannot be mounted here: {done.stderr.strip()}")
    yield place
    # Lazily: a run that a failed test left behind may still stand in it.
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def free(place: pathlib.Path) -> int:
    return shutil.disk_usage(place).free


def fill(place: pathlib.Path, leave: int) -> pathlib.Path:
    """Take all room but `leave` bytes, with one file."""
    ballast = place / "ballast"
    with ballast.open("wb") as file:
        for size in range(free(place) - leave, 0, -MB // 10):
            with contextlib.suppress(OSError):  # a run was writing at that moment
                os.posix_fallocate(file.fileno(), 0, size)
                break
    return ballast


def check_saves(small_disk: pathlib.Path) -> None:
    said: list[str] = []
    saver = Checkpointer(small_disk / "run", warn=said.append)
    tree = {"x": jnp.ones(2 * MB)}  # 8 MB
    for step in (1, 2):
        assert saver.save(step, tree, {})
    ballast = fill(small_disk, leave=4 * MB)
    before = free(small_disk)
    for step in (3, 4):
        assert not saver.save(step, tree, {})
        assert free(small_disk) == before  # nothing of it stays
    assert saver.steps() == [1, 2] and len(said) == 2
    for line in said:  # Orbax calls it RESOURCE_EXHAUSTED, and says much more
        assert "No space left" in line or "RESOURCE_EXHAUSTED" in line
        assert "\n" not in line and "was not saved" in line
    ballast.unlink()
    assert saver.save(5, tree, {}) and saver.steps() == [1, 2, 5]
    found = saver.restore(tree)
    assert found is not None and found.step == 5 and len(said) == 2


# Orbax' own threads may still clean up when its event loop is closed already.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("noticed", ["before", "while"])
def test_a_disk_that_fills_up_costs_saves_only(small_disk, monkeypatch, noticed):
    if noticed == "while":  # others took the room after we had looked
        monkeypatch.setattr(
            "train.checkpoint.checkpointer.reserve", lambda directory, size: None
        )
    check_saves(small_disk)


def test_a_run_whose_checkpoints_cannot_fit_is_refused(small_disk, capsys):
    fill(small_disk, leave=10 * MB)
    assert main([*TINY.split(), "--logdir", str(small_disk / "run")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    found = re.search(
        r"4 checkpoints \(one is being written\) take ([\d.]+) MiB and the agents "
        r"beside them ([\d.]+) MiB, ([\d.]+) MiB are free; allowed: a disk with more",
        err,
    )
    assert found is not None, err
    checkpoints, agents, free_then = map(float, found.groups())
    assert 4 * 7 < checkpoints < 4 * 9 and 5 < agents < 6  # of 0.6M parameters
    assert 8 < free_then <= 10
    assert "--keep 1" in err
    assert Checkpointer(small_disk / "run").steps() == []


def test_a_disk_without_a_byte_left_is_answered_in_one_line(small_disk, capsys):
    fill(small_disk, leave=0)
    assert main([*TINY.split(), "--logdir", str(small_disk / "run")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: --logdir") and err.count("\n") == 1


def test_a_log_on_a_disk_that_fills_up(small_disk, capsys):
    """TensorBoard is lost, and neither holds up the run nor the record."""
    with Logger(small_disk, total_steps=1000) as log:
        log.write(0, {"x": 0.0})
        ballast = fill(small_disk, leave=0)
        for step in range(1, 1000):
            log.write(step, {f"name/{i}": float(step) for i in range(10)})
        ballast.unlink()
        log.write(1000, {"x": 1.0})
    said = capsys.readouterr().out
    assert said.count("warning: TensorBoard failed and is left out") == 1
    assert said.count("metrics.jsonl cannot be written") == 1
    steps = [line["step"] for line in jsonl.read(small_disk / "metrics.jsonl")]
    assert steps == list(range(1001))


@pytest.mark.slow
def test_a_run_on_a_disk_that_fills_up(small_disk, tmp_path):
    """It trains on, saves again when there is room, and leaves a whole record."""
    run_dir, log = small_disk / "run", small_disk / "run.log"
    log.symlink_to(tmp_path / "run.log")  # what it prints must not need the disk
    process = start(TINY.replace("--log-every 40", "--log-every 8"), run_dir)
    saver = Checkpointer(run_dir)
    assert wait_for(process, lambda: len(saver.steps()) == 1)
    ballast = fill(small_disk, leave=0)
    assert wait_for(process, lambda: "was not saved" in log.read_text())
    assert saver.steps() != []
    assert wait_for(process, lambda: "cannot be written" in log.read_text())
    ballast.unlink()
    said = finish(process, run_dir)
    assert said.count("warning: TensorBoard failed") <= 1  # it may have been buffered
    assert "metrics.jsonl cannot be written" in said
    last = jsonl.read(run_dir / "metrics.jsonl")
    assert saver.steps()[-1] == last[-1]["step"]
    # The first line is the evaluation of the untrained agent.
    updates = [line["train/updates"] or 0 for line in last[1:]]
    assert updates == [updates[0] * (i + 1) for i in range(len(updates))]
    assert not list((run_dir / "checkpoints").glob(".unfinished*"))
