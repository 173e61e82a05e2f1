"""Forks go on from another run's checkpoint; warm starts take some of its modules."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
from toy_run import Toy, assert_same_bits, configured, shared

from train.checkpoint.checkpointer import Checkpointer
from train.checkpoint.warm_start import apply_warm_start, read_warm_start
from train.config import Config
from train.config.cli import read_command
from train.config.origin import OriginConfig
from train.errors import CheckpointMismatch, UserError
from train.preflight.fork import prepare_fork
from train.run_dir.record import read_run

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def toy() -> Toy:
    return shared()


@pytest.fixture(scope="module")
def parent(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    run_dir = tmp_path_factory.mktemp("parent")
    _, code = toy.train(run_dir)
    assert code == 0
    return run_dir


def command(words: str) -> Config:
    read = lambda run: read_run(run, "--fork")
    return read_command(words.split(), lambda _: "cpu", read).config


def test_a_fork_without_another_flag_is_the_same_run(toy, parent, tmp_path):
    first, last = Checkpointer(parent).steps()
    words = f"--fork {parent} --at {first} --logdir {tmp_path}"
    (line,) = prepare_fork(command(words), tmp_path)
    assert f"step {first:,}: no flag differs" in line
    assert Checkpointer(tmp_path).steps() == [first]
    toy.train(tmp_path)
    steps, template = Checkpointer(tmp_path).steps(), toy.programs.template
    assert steps == [first, last]
    forked, original = (
        Checkpointer(run_dir).restore_step(last, template)
        for run_dir in (tmp_path, parent)
    )
    assert forked is not None and original is not None
    assert_same_bits(forked.tree, original.tree)
    log = "metrics.jsonl"
    assert (tmp_path / log).read_bytes() == (parent / log).read_bytes()
    # The same command later goes on with the fork and copies nothing.
    assert prepare_fork(command(words), tmp_path) == []


def test_a_fork_records_what_differs(parent, tmp_path):
    config = command(f"--fork {parent} --logdir {tmp_path} --learning-rate 1e-3")
    assert config.env == "toy-target" and config.steps == 400  # as the parent
    (line,) = prepare_fork(config, tmp_path)
    change = "--learning-rate: 4e-05 -> 0.001"
    assert change in line
    record = json.loads((tmp_path / "fork.json").read_text())
    assert record["changes"] == [change]
    longer = command(f"--fork {parent} --logdir {tmp_path} --steps 800")
    assert longer.replay_capacity == config.replay_capacity == 200
    assert record["step"] == Checkpointer(parent).steps()[-1]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("--fork {parent}", "--fork .*: a fork is a run of its own"),
        ("--fork {parent} --logdir x --preset laptop", "--preset laptop: the flags of"),
        ("--fork {parent}x --logdir x", "--fork .*no such directory.*nearest"),
        ("--fork {parent} --logdir x --init-from y", "--init-from y: a fork takes all"),
        ("--preset smoke --at 3", "--at 3: of no run"),
        ("--preset smoke --init-parts encoder", "--init-parts encoder: of no run"),
        ("--init-from y --init-parts encoder,decode", "decode: no .*valid: decoder"),
    ],
)
def test_refused_command_lines(parent, words, error):
    with pytest.raises(UserError, match=error):
        command(words.format(parent=parent))


def test_a_step_without_a_checkpoint_and_a_damaged_one(parent, tmp_path):
    first, _ = Checkpointer(parent).steps()
    words = f"--fork {parent} --logdir {tmp_path} --at {first + 1}"
    with pytest.raises(UserError, match=f"nearest valid: {first}$"):
        prepare_fork(command(words), tmp_path)
    damaged = tmp_path / "damaged"
    Checkpointer(damaged).copy(first, Checkpointer(parent))
    (damaged / "config.json").write_bytes((parent / "config.json").read_bytes())
    (damaged / f"checkpoints/{first:012d}/metadata.json").write_text("{}")
    words = f"--fork {damaged} --logdir {tmp_path / 'fork'}"
    with pytest.raises(UserError, match=r"metadata.json"):
        prepare_fork(command(words), tmp_path / "fork")
    assert Checkpointer(tmp_path / "fork").steps() == []


def warm(parent: pathlib.Path, parts: str) -> Config:
    origin = OriginConfig(init_from=str(parent), init_parts=parts)
    return dataclasses.replace(configured(), origin=origin)


def test_a_warm_start_takes_the_modules_named(toy, parent):
    template = toy.programs.template
    found = read_warm_start(warm(parent, "encoder,value"), template)
    assert found is not None
    assert "encoder (" in found.line and "anew: decoder, dynamics" in found.line
    new = toy.programs.init(toy.programs.keys(5))
    run = apply_warm_start(new, found)
    trained = Checkpointer(parent).restore(template)
    assert trained is not None
    agent, source = run.learner.agent, trained.tree.learner.agent
    assert_same_bits(agent.model.encoder, source.model.encoder)
    assert_same_bits(agent.value, source.value)
    assert_same_bits(run.learner.slow_value, source.value)
    for part in ("decoder", "rssm", "reward", "cont"):
        kept, fresh = (getattr(x.learner.agent.model, part) for x in (run, new))
        assert_same_bits(kept, fresh)
    assert_same_bits(agent.policy, new.learner.agent.policy)
    differ = lambda x, y: any(
        np.any(np.asarray(a) != np.asarray(b))
        for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
    )
    assert differ(new.learner.agent.model.encoder, source.model.encoder)
    assert read_warm_start(configured(), template) is None


def test_a_warm_start_that_does_not_fit_is_refused_by_name(toy, parent):
    shapes = toy.programs.template
    widened = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((3, *x.shape), x.dtype), shapes.learner.agent
    )
    template = shapes._replace(learner=shapes.learner._replace(agent=widened))
    with pytest.raises(CheckpointMismatch, match=r"\.learner\.agent\.model\.encoder"):
        read_warm_start(warm(parent, "encoder"), template)
    with pytest.raises(UserError, match="holds no agent"):
        read_warm_start(warm(parent / "checkpoints", "encoder"), shapes)
