"""A tiny run whose compiled programs all tests share."""

import collections
import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import VectorEnv
from train import loop
from train.config import Config
from train.config.cli import parse
from train.placement import programs
from train.placement.placement import Program
from train.preflight.setup import make_env
from train.program.chunk import make_chunk
from train.program.penalty import choose_penalty
from train.program.state import RunState

SMOKE = "--preset smoke --env toy-target --penalty none --log-every 40"
PENALTY = choose_penalty(parse(SMOKE.split(), "cpu"), "cpu")


def configured(words: str = "") -> Config:
    return parse(f"{SMOKE} {words}".split(), "cpu")


def vector_env(config: Config) -> VectorEnv:
    return VectorEnv(make_env(config), config.num_envs)


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
            patch.setattr(programs, "make_chunk", counting)
            self.programs = loop.Programs(self.config, vector_env(self.config), PENALTY)

    def train(self, run_dir: pathlib.Path, instead: Any = None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "Programs", lambda *_: instead or self.programs)
            run_dir.mkdir(exist_ok=True)
            return loop.train(self.config, vector_env(self.config), run_dir, PENALTY)

    def filled(self) -> RunState:
        run, _ = self.programs.prefill(self.programs.init(self.programs.keys(0)))
        return jax.device_put(run, jax.devices()[0])  # as the loop does


class Replaced:
    """A function in place of a compiled program, which is prepared as before."""

    def __init__(self, function: Callable[..., Any], program: Program) -> None:
        self._function, self.prepare = function, program.prepare

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)


class Altered:
    """Shared programs with some of them replaced."""

    def __init__(self, programs: loop.Programs, **replaced: Any) -> None:
        self._programs = programs
        for name, function in replaced.items():
            setattr(self, name, Replaced(function, getattr(programs, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._programs, name)


@functools.cache
def shared() -> Toy:
    """The one for all test modules: tracing takes longer than the tests do."""
    return Toy()


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


def poisoned(run: RunState, rows: slice) -> RunState:
    """The same run with rewards of the replay that are not finite."""
    reward = run.replay.rows.reward.at[rows].set(jnp.nan)
    stored = run.replay.rows._replace(reward=reward)
    return run._replace(replay=run.replay._replace(rows=stored))
