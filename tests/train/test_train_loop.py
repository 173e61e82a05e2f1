"""The loop over chunks: compiled once, stopped and resumed exactly."""

import random
import signal
import types
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from tensorboardX.record_writer import RecordWriter
from toy_run import (
    PENALTY,
    Altered,
    Toy,
    assert_finite,
    assert_same_bits,
    configured,
    log_lines,
    raw,
    vector_env,
)

from train import loop
from train.checkpoint.checkpointer import Checkpointer
from train.config import Config
from train.config.presets import PRESETS, preset_config
from train.errors import UserError
from train.preflight.setup import short_intervals
from train.processes.signals import STOP_SIGNALS
from train.program.chunk import Schedule, make_chunk
from train.program.penalty import choose_penalty
from train.program.state import RunState
from train.rollout.player import Played

pytestmark = pytest.mark.usefixtures("quick_compiles")


@pytest.fixture(scope="module")
def toy() -> Toy:
    # Its own: what is counted here are the traces of these tests alone.
    return Toy()


def assert_one_program(toy: Toy) -> None:
    assert toy.traces["chunk"] == 1
    assert toy.programs.chunk.jitted._cache_size() == 1


def test_the_chunk_is_traced_once(toy, whole):
    assert len(whole[2]) >= 9
    assert_one_program(toy)


def test_an_unbroken_run_does_what_the_schedule_says(toy, whole):
    run_dir, run, lines = whole
    schedule = Schedule.of(toy.config)
    updates = schedule.cycles * schedule.updates
    untrained, *trained = lines
    assert [line["train/updates"] for line in trained] == [
        updates * (i + 1) for i in range(len(trained))
    ]
    assert run.learner.updates == updates * len(trained) and run.learner.skipped == 0
    assert_finite(run.learner)
    # Steps are those of the environments: decisions times the repeat of actions.
    assert [line["step"] for line in trained] == [2 * x["decisions"] for x in trained]
    # The curve begins with the agent before its first update, and nothing else.
    assert {name.split("/")[0] for name in untrained} == {"step", "eval"}
    filling = schedule.prefill_rows * toy.config.num_envs * toy.config.action_repeat
    assert 0 < untrained["step"] <= filling
    assert lines[-2]["step"] < toy.config.steps <= lines[-1]["step"]
    evaluated = [line["step"] for line in lines if "eval/return_mean" in line]
    assert len(evaluated) == 3 and 200 <= evaluated[1] < 240
    assert evaluated[0] == untrained["step"] and evaluated[-1] == lines[-1]["step"]
    assert Checkpointer(run_dir).steps() == evaluated[1:]  # here at the same interval


def test_episodes_cut_off_are_said_and_counted(toy):
    played = Played(
        jnp.array([[5.0, 7.0, 9.0]]),
        jnp.array([[20, 20, 20]]),
        jnp.array([[False, True, True]]),
        None,
    )
    programs = Altered(toy.programs, evaluate=lambda *_: played)
    said = types.SimpleNamespace(lines=[])
    said.say = said.lines.append
    found = loop.evaluate(programs, None, 1200, said)  # pyright: ignore[reportArgumentType]
    assert found["eval/return_mean"] == 7.0 and found["eval/cut_off"] == 2
    (line,) = said.lines
    assert line.startswith("evaluation at step 1,200: 2 of 3 episodes cut off after")


def primitives(jaxpr: Any) -> Iterator[str]:
    """Names of all primitives of a jaxpr and of those inside it."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield equation.primitive.name
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else [value]:
                if hasattr(part, "eqns") or hasattr(part, "jaxpr"):
                    yield from primitives(part)


def test_callbacks_would_be_found():
    def step(x, _):
        jax.debug.print("{x}", x=x)
        return jnp.sin(x), None

    looped = jax.jit(lambda x: jax.lax.scan(step, x, length=3)[0])
    names = set(primitives(jax.make_jaxpr(looped)(1.0)))
    assert "sin" in names and any("callback" in n or "print" in n for n in names)


@pytest.mark.parametrize(
    "env", ["toy-target", pytest.param("walker-walk", marks=pytest.mark.long)]
)
def test_no_chunk_calls_the_host(env):
    config = configured(f"--env {env} --penalty xla")
    vector = vector_env(config)
    chunk = make_chunk(
        config,
        vector,
        Schedule.of(config),
        choose_penalty(config, "cpu").options,
        jnp.dtype("float32"),
    )
    run = loop.Programs(config, vector, PENALTY).template
    names = set(primitives(jax.make_jaxpr(chunk)(run)))
    assert {"scan", "dot_general", "random_bits"} <= names  # the walk went deep
    hosts = ("callback", "debug", "infeed", "outfeed")
    assert not [name for name in names if any(host in name for host in hosts)]


def stop_at(toy: Toy, chunks: list[int], number: signal.Signals) -> Altered:
    """Programs during whose n-th chunk a signal arrives, for n in `chunks`."""
    calls = iter(range(1, 1000))

    def chunk(run: RunState):
        if next(calls) in chunks:
            signal.raise_signal(number)
        return toy.programs.chunk(run)

    return Altered(toy.programs, chunk=chunk)


@pytest.mark.parametrize(
    ("seed", "number", "code"),
    [
        pytest.param(0, signal.SIGTERM, 143, marks=pytest.mark.long),
        (1, signal.SIGINT, 130),
        pytest.param(2, signal.SIGUSR1, 143, marks=pytest.mark.long),
    ],
)
def test_a_resumed_run_is_bitwise_the_unbroken_one(
    toy, whole, tmp_path, capsys, seed, number, code
):
    whole_dir, expected, lines = whole
    # The first line is that of the untrained agent; the n-th chunk writes the next.
    first, second = random.Random(seed).sample(range(1, len(lines) - 2), 2)
    handlers = [signal.getsignal(n) for n in STOP_SIGNALS]
    # Two stops: the second run begins at the first one's checkpoint.
    first, second = min(first, second), max(first, second)
    for chunks in (first, second - first):
        run, exit_code = toy.train(tmp_path, stop_at(toy, [chunks], number))
        assert exit_code == code
        assert f"stopped by {number.name}" in capsys.readouterr().out
    assert [signal.getsignal(n) for n in STOP_SIGNALS] == handlers
    assert log_lines(tmp_path) == lines[: second + 1]
    assert loop.env_steps(toy.config, run) == lines[second]["step"]
    run, exit_code = toy.train(tmp_path)
    assert exit_code == 0
    assert_one_program(toy)
    said = capsys.readouterr().out
    assert f"resuming at environment step {lines[second]['step']:,}" in said
    assert_same_bits(run, expected)
    metrics = "metrics.jsonl"
    assert (tmp_path / metrics).read_bytes() == (whole_dir / metrics).read_bytes()


@pytest.mark.long
def test_work_after_the_last_checkpoint_is_done_again(toy, whole, tmp_path):
    """As after `kill -9`: the log is ahead of the checkpoint."""
    _, expected, lines = whole

    def killed(run: RunState):
        if loop.env_steps(toy.config, run) > 300:
            raise RuntimeError("killed")
        return toy.programs.chunk(run)

    with pytest.raises(RuntimeError, match="killed"):
        toy.train(tmp_path, Altered(toy.programs, chunk=killed))
    saved = Checkpointer(tmp_path).steps()
    assert saved and saved[-1] < log_lines(tmp_path)[-1]["step"]
    run, _ = toy.train(tmp_path)
    assert_same_bits(run, expected)
    assert log_lines(tmp_path) == lines


def test_a_second_interrupt_stops_at_once(toy, tmp_path, monkeypatch):
    def chunk(run: RunState):
        signal.raise_signal(signal.SIGINT)
        monkeypatch.setattr("train.processes.signals.SAME_STOP", -1.0)
        signal.raise_signal(signal.SIGINT)
        return toy.programs.chunk(run)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="at once; there was no checkpoint yet"):
        toy.train(tmp_path, Altered(toy.programs, chunk=chunk))
    assert signal.getsignal(signal.SIGINT) is before


def test_the_echo_of_an_interrupt_is_the_same_stop(toy, tmp_path, capsys):
    """`uv run` and `timeout` pass a Ctrl-C on that the terminal sent already."""

    def chunk(run: RunState):
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
        return toy.programs.chunk(run)

    run, code = toy.train(tmp_path, Altered(toy.programs, chunk=chunk))
    out = capsys.readouterr().out
    assert code == 130 and "stopped by SIGINT at environment step" in out
    assert out.count("SIGINT: stopping after ") == 1
    assert Checkpointer(tmp_path).steps() == [loop.env_steps(toy.config, run)]


@pytest.mark.long
@pytest.mark.parametrize("signalled", [False, True])
def test_an_end_that_cannot_be_saved_is_an_error(
    toy, tmp_path, monkeypatch, capsys, signalled
):
    """By itself or after a signal; with what is lost, and no success."""
    intact = Checkpointer.save

    def save(self: Checkpointer, step: int, *args: Any) -> bool:
        fails = step >= 300 and self.folder == "checkpoints"
        return not fails and intact(self, step, *args)

    def chunk(run: RunState):
        if signalled and loop.env_steps(toy.config, run) > 300:
            signal.raise_signal(signal.SIGTERM)
        return toy.programs.chunk(run)

    monkeypatch.setattr(Checkpointer, "save", save)
    _, code = toy.train(tmp_path, Altered(toy.programs, chunk=chunk))
    out = capsys.readouterr().out
    (last,) = Checkpointer(tmp_path).steps()
    assert code == (143 if signalled else 1) and last < 300
    assert f"NOT SAVED: what was trained after environment step {last} is lost" in out
    assert ("the same command resumes" in out) == signalled


@pytest.mark.long
def test_a_save_that_fails_in_the_middle_costs_that_save(
    toy, tmp_path, monkeypatch, capsys
):
    tried: list[int] = []
    intact = Checkpointer.save

    def save(self: Checkpointer, step: int, *args: Any) -> bool:
        if self.folder != "checkpoints":
            return intact(self, step, *args)
        tried.append(step)
        return len(tried) > 1 and intact(self, step, *args)

    monkeypatch.setattr(Checkpointer, "save", save)
    _, code = toy.train(tmp_path)
    out = capsys.readouterr().out
    assert code == 0 and len(tried) > 1
    assert Checkpointer(tmp_path).steps() == tried[1:][-3:]
    assert out.count("training goes on, and the next save will try again") == 1


@pytest.mark.long
@pytest.mark.parametrize("when", ["made", "written"])
def test_a_logger_that_fails_costs_only_itself(
    toy, whole, tmp_path, monkeypatch, capsys, when
):
    """TensorBoard cannot make its folder, or raises in the middle of the run."""
    calls = iter(range(1000))
    intact = RecordWriter.write

    def failing(*args: Any) -> None:
        if next(calls) == 5:
            raise ConnectionError("no network")
        intact(*args)

    if when == "made":
        (tmp_path / "tensorboard").write_text("in the way")
    else:
        monkeypatch.setattr(RecordWriter, "write", failing)
    run, code = toy.train(tmp_path)
    assert code == 0
    assert capsys.readouterr().out.count("warning: TensorBoard failed and is left") == 1
    metrics = "metrics.jsonl"
    assert (tmp_path / metrics).read_bytes() == (whole[0] / metrics).read_bytes()
    assert_same_bits(run, whole[1])


def test_another_seed_is_another_run(toy, whole):
    other = loop.Programs(configured("--seed 1"), vector_env(toy.config), PENALTY)
    keys = [raw(p.keys(0)).tolist() for p in (toy.programs, other)]
    assert keys[0] != keys[1]
    assert raw(toy.programs.keys(1)).tolist() not in keys


def realized_ratio(config: Config) -> float:
    schedule = Schedule.of(config)
    replayed = schedule.updates * config.batch_size * config.batch_length
    return replayed / (schedule.rows * config.num_envs)


@pytest.mark.parametrize("preset", [*PRESETS, "auto"])
def test_train_ratio_of_the_presets(preset):
    config = preset_config(preset, platform="cpu")
    assert realized_ratio(config) == pytest.approx(config.train_ratio, rel=0.01)
    schedule = Schedule.of(config)
    assert schedule.prefill_rows * config.num_envs >= config.learning_starts
    chunk = schedule.cycles * schedule.rows * config.num_envs * config.action_repeat
    assert chunk <= 1.5 * config.log_every


@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.17, 1, 1.37, 4.9, 7, 32, 513, 1e5])
@pytest.mark.parametrize("num_envs", [1, 7, 16])
def test_any_train_ratio_is_met(ratio, num_envs):
    words = f"--train-ratio {ratio} --num-envs {num_envs} --steps 1e6"
    config = configured(words)
    assert realized_ratio(config) == pytest.approx(ratio, rel=0.01)


def test_a_run_without_an_update_is_refused():
    assert Schedule.of(configured("--train-ratio 0.08")).rows == 100
    with pytest.raises(UserError, match=r"--train-ratio 0\.01: .* at least 0\.08"):
        Schedule.of(configured("--train-ratio 0.01"))


def test_a_chunk_is_not_longer_than_the_run():
    config = configured("--log-every 1e6")
    schedule = Schedule.of(config)
    rows = schedule.cycles * schedule.rows
    assert rows * config.num_envs * config.action_repeat <= config.steps


def test_intervals_below_a_chunk_are_said():
    assert short_intervals(configured()) == []
    (line,) = short_intervals(configured("--eval-every 20 --save-every 30"))
    words = "--eval-every 20 and --save-every 30: once in every chunk of 40 steps"
    assert words in line
