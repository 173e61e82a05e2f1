"""The loop over chunks: compiled once, stopped and resumed exactly, NaN survived."""

import collections
import json
import pathlib
import random
import signal
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import VectorEnv
from train import loop
from train.checkpoint import Checkpointer
from train.chunk import Schedule, make_chunk
from train.cli import parse
from train.config import Config
from train.errors import UserError
from train.presets import PRESETS, preset_config
from train.start import choose_penalty, make_env
from train.state import RunState

SMOKE = "--preset smoke --env toy-target --penalty none --log-every 40"
PENALTY = choose_penalty(parse(SMOKE.split(), "cpu"), "cpu")


def configured(words: str = "") -> Config:
    return parse(f"{SMOKE} {words}".split(), "cpu")


def vector_env(config: Config) -> VectorEnv:
    return VectorEnv(make_env(config), config.num_envs)


@pytest.fixture(scope="module", autouse=True)
def quick_compiles() -> Iterator[None]:
    """Compiling is most of the time here; the programs stay the same."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


class Toy:
    """Programs that all tests share, and how often the chunk was traced."""

    def __init__(self) -> None:
        self.config = configured()
        self.traces: collections.Counter[str] = collections.Counter()

        def counting(*args: Any):
            chunk = make_chunk(*args)

            def counted(run: RunState):
                self.traces["chunk"] += 1
                return chunk(run)

            return counted

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "make_chunk", counting)
            self.programs = loop.Programs(self.config, vector_env(self.config), PENALTY)

    def train(self, run_dir: pathlib.Path, programs: Any = None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "Programs", lambda *_: programs or self.programs)
            run_dir.mkdir(exist_ok=True)
            return loop.train(self.config, vector_env(self.config), run_dir, PENALTY)

    def filled(self) -> RunState:
        run, _ = self.programs.prefill(self.programs.init(self.programs.keys(0)))
        return jax.device_put(run, jax.devices()[0])  # as the loop does


class Altered:
    """Shared programs with some of them replaced."""

    def __init__(self, programs: loop.Programs, **replaced: Any) -> None:
        self._programs = programs
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._programs, name)


@pytest.fixture(scope="module")
def toy() -> Toy:
    return Toy()


@pytest.fixture(scope="module")
def whole(toy: Toy, tmp_path_factory: pytest.TempPathFactory):
    """An unbroken run: its directory, final state and log."""
    run_dir = tmp_path_factory.mktemp("whole")
    run, code = toy.train(run_dir)
    assert code == 0
    return run_dir, run, log_lines(run_dir)


def log_lines(run_dir: pathlib.Path) -> list[dict[str, Any]]:
    text = (run_dir / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def raw(leaf: Any) -> np.ndarray:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def assert_same_bits(a: Any, b: Any) -> None:
    left = jax.tree_util.tree_flatten_with_path(a)[0]
    right = jax.tree_util.tree_flatten_with_path(b)[0]
    assert [path for path, _ in left] == [path for path, _ in right]
    for (path, x), (_, y) in zip(left, right, strict=True):
        x, y = raw(x), raw(y)
        assert (x.dtype, x.shape) == (y.dtype, y.shape), path
        assert x.tobytes() == y.tobytes(), jax.tree_util.keystr(path)


def assert_finite(tree: Any) -> None:
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        values = raw(leaf).astype(np.float64)
        assert np.all(np.isfinite(values)), jax.tree_util.keystr(path)


def assert_one_program(toy: Toy) -> None:
    assert toy.traces["chunk"] == 1
    assert getattr(toy.programs.chunk, "_cache_size")() == 1  # noqa: B009


def test_the_chunk_is_traced_once(toy, whole):
    assert len(whole[2]) >= 8
    assert_one_program(toy)


def test_an_unbroken_run_does_what_the_schedule_says(toy, whole):
    run_dir, run, lines = whole
    schedule = Schedule.of(toy.config)
    updates = schedule.cycles * schedule.updates
    assert [line["train/updates"] for line in lines] == [
        updates * (i + 1) for i in range(len(lines))
    ]
    assert run.learner.updates == updates * len(lines) and run.learner.skipped == 0
    assert_finite(run.learner)
    # Steps are those of the environments: decisions times the repeat of actions.
    assert [line["step"] for line in lines] == [2 * x["decisions"] for x in lines]
    assert lines[-2]["step"] < toy.config.steps <= lines[-1]["step"]
    evaluated = [line["step"] for line in lines if "eval/return_mean" in line]
    assert len(evaluated) == 2 and 200 <= evaluated[0] < 240
    assert evaluated[-1] == lines[-1]["step"]
    assert Checkpointer(run_dir).steps() == evaluated  # here at the same interval


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


@pytest.mark.parametrize("env", ["toy-target", "walker-walk"])
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
    init = loop.Programs(config, vector, PENALTY).init
    run = jax.eval_shape(init, jax.random.key(0))
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
    ("seed", "number", "code"), [(0, signal.SIGTERM, 143), (1, signal.SIGINT, 130)]
)
def test_a_resumed_run_is_bitwise_the_unbroken_one(
    toy, whole, tmp_path, capsys, seed, number, code
):
    whole_dir, expected, lines = whole
    first, second = random.Random(seed).sample(range(1, len(lines) - 1), 2)
    handlers = [signal.getsignal(n) for n in loop.STOP_SIGNALS]
    # Two stops: the second run begins at the first one's checkpoint.
    first, second = min(first, second), max(first, second)
    for chunks in (first, second - first):
        run, exit_code = toy.train(tmp_path, stop_at(toy, [chunks], number))
        assert exit_code == code
        assert f"stopped by {number.name}" in capsys.readouterr().out
    assert [signal.getsignal(n) for n in loop.STOP_SIGNALS] == handlers
    assert log_lines(tmp_path) == lines[:second]
    assert loop.env_steps(toy.config, run) == lines[second - 1]["step"]
    run, exit_code = toy.train(tmp_path)
    assert exit_code == 0
    assert_one_program(toy)
    said = capsys.readouterr().out
    assert f"resuming at environment step {lines[second - 1]['step']:,}" in said
    assert_same_bits(run, expected)
    metrics = "metrics.jsonl"
    assert (tmp_path / metrics).read_bytes() == (whole_dir / metrics).read_bytes()


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


def test_a_second_interrupt_stops_at_once(toy, tmp_path):
    def chunk(run: RunState):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return toy.programs.chunk(run)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        toy.train(tmp_path, Altered(toy.programs, chunk=chunk))
    assert signal.getsignal(signal.SIGINT) is before


def test_another_seed_is_another_run(toy, whole):
    other = loop.Programs(configured("--seed 1"), vector_env(toy.config), PENALTY)
    keys = [raw(p.keys(0)).tolist() for p in (toy.programs, other)]
    assert keys[0] != keys[1]
    assert raw(toy.programs.keys(1)).tolist() not in keys


def poisoned(run: RunState, rows: slice) -> RunState:
    """The same run with rewards of the replay that are not finite."""
    reward = run.replay.rows.reward.at[rows].set(jnp.nan)
    stored = run.replay.rows._replace(reward=reward)
    return run._replace(replay=run.replay._replace(rows=stored))


def test_an_update_that_is_not_finite_is_skipped_and_counted(toy):
    schedule = Schedule.of(toy.config)
    updates = schedule.cycles * schedule.updates
    # Rows past the prefill are written over before they are drawn.
    before = poisoned(toy.filled(), slice(None))
    learner = jax.tree.map(jnp.copy, before.learner)
    after, output = toy.programs.chunk(before)
    assert output.skipped == output.skipped_in_row == updates
    assert output.updates == after.learner.updates == 0
    untouched = learner._replace(
        skipped=after.learner.skipped, skipped_in_row=after.learner.skipped_in_row
    )
    assert_same_bits(after.learner, untouched)


def test_one_bad_row_costs_the_updates_that_draw_it(toy):
    schedule = Schedule.of(toy.config)
    updates = schedule.cycles * schedule.updates
    run, output = toy.programs.chunk(poisoned(toy.filled(), slice(12, 13)))
    assert 0 < output.skipped < updates
    assert output.updates + output.skipped == updates
    assert_finite(run.learner)


def test_a_diverged_run_stops_before_saving(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "MAX_SKIPPED_IN_ROW", 3)
    programs = Altered(
        toy.programs,
        prefill=lambda run: (poisoned(toy.programs.prefill(run)[0], slice(None)), None),
    )
    with pytest.raises(loop.Diverged, match="3 updates in a row"):
        toy.train(tmp_path, programs)
    assert Checkpointer(tmp_path).steps() == []


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
