"""Agents that a run leaves beside its checkpoints."""

import dataclasses
import pathlib
import shutil
from typing import NamedTuple

import pytest
from toy_run import Toy, assert_same_bits, log_lines, shared

from train.checkpoint.checkpointer import Checkpointer
from train.checkpoint.disk import describe_checkpoints
from train.checkpoint.saved_agents import SavedLearner, SavedRun, restore_agent
from train.program.state import RunState

pytestmark = pytest.mark.long


class Whole(NamedTuple):
    """An unbroken run: its directory, final state, and the steps of its log."""

    run_dir: pathlib.Path
    run: RunState
    steps: list[int]


@pytest.fixture(scope="module")
def toy() -> Toy:
    return shared()


@pytest.fixture(scope="module")
def whole(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    run_dir = tmp_path_factory.mktemp("whole")
    run, code = toy.train(run_dir)
    assert code == 0
    return Whole(run_dir, run, [line["step"] for line in log_lines(run_dir)])


def agents_of(run_dir: pathlib.Path) -> list[int]:
    return Checkpointer(run_dir, folder="agents").steps()


def test_agents_are_kept_beside_the_checkpoints(toy, whole, tmp_path):
    """By itself the newest; with --keep-every more, and the run is the same."""
    steps = whole.steps
    assert agents_of(whole.run_dir) == steps[-1:]
    config = dataclasses.replace(toy.config, keep_every=100, keep=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "config", config)
        run, code = toy.train(tmp_path)
    assert code == 0
    pairs = zip([0, *steps], steps, strict=False)
    crossing = [after for before, after in pairs if before // 100 < after // 100]
    assert agents_of(tmp_path) == sorted({*crossing, steps[-1]})
    assert len(crossing) >= 4
    assert Checkpointer(tmp_path).steps() == steps[-1:]
    assert_same_bits(run, whole.run)
    restored = restore_agent(tmp_path, agent_template(toy))
    assert restored is not None
    assert_same_bits(restored.tree.learner.agent, whole.run.learner.agent)


def agent_template(toy: Toy) -> SavedRun:
    return SavedRun(SavedLearner(toy.programs.template.learner.agent))


def test_agents_without_a_checkpoint_are_set_aside_by_a_new_run(
    toy, whole, tmp_path, capsys
):
    shutil.copytree(whole.run_dir / "agents", tmp_path / "agents")
    toy.train(tmp_path)
    assert "was there, without a checkpoint: now agents.1" in capsys.readouterr().out
    moved = Checkpointer(tmp_path, folder="agents.1").steps()
    assert moved == agents_of(whole.run_dir) == agents_of(tmp_path)


def test_the_start_says_what_a_checkpoint_is_made_of(toy):
    template = toy.programs.template
    checkpoints, agents = describe_checkpoints(toy.config, template)
    assert "MiB each, of which" in checkpoints and "newest 3 are kept" in checkpoints
    assert "(--keep 1: only one)" in checkpoints
    assert agents.endswith("the newest is kept")
    config = dataclasses.replace(toy.config, keep=1, keep_every=5000)
    checkpoints, agents = describe_checkpoints(config, template)
    assert checkpoints.endswith("; the newest one is kept")
    assert agents.endswith("and one every 5,000 steps for ever")


def test_a_checkpoint_to_fork_is_kept_whatever_comes_later(toy, tmp_path):
    """That of the chunk which passes the step; also between two regular saves."""
    config = dataclasses.replace(toy.config, keep=1, keep_at="90,130", save_every=10**6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "config", config)
        toy.train(tmp_path)
    store = Checkpointer(tmp_path, keep=1)
    logged = [line["step"] for line in log_lines(tmp_path)]
    wanted = [next(step for step in logged if step >= at) for at in (90, 130)]
    last = logged[-1]
    assert store.steps() == [*wanted, last] and wanted[0] < wanted[1] < last
    for step in (last + 10, last + 20):  # as stops would save
        store.save(step, toy.filled(), {"updates": 1})
    assert store.steps() == [*wanted, last + 20]
