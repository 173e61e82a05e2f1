"""Run directories as training leaves them, without training."""

import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs import VectorEnv
from train.checkpoint.checkpointer import Checkpointer
from train.config import Config
from train.config.cli import parse
from train.preflight.setup import make_env
from train.program.state import RunState, init_run
from train.run_dir import record


def configured(words: str) -> Config:
    return parse(f"--preset smoke {words}".split(), "cpu")


def random_state(config: Config) -> RunState:
    """A run's state with random numbers in it: initializing it would be compiled."""
    env = VectorEnv(make_env(config), config.num_envs)
    init, key = lambda key: init_run(config, env, key), jax.random.key(0)
    if config.seeds > 1:
        init, key = jax.vmap(init), jax.random.split(key, config.seeds)
    rng = np.random.default_rng(0)

    def fill(leaf: jax.ShapeDtypeStruct) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.broadcast_to(jax.random.key(0), leaf.shape)
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.asarray(0.1 * rng.normal(size=leaf.shape), leaf.dtype)
        return jnp.zeros(leaf.shape, leaf.dtype)

    return jax.tree.map(fill, jax.eval_shape(init, key))


def save_run(
    run_dir: pathlib.Path, config: Config, tree: Any, steps: tuple[int, ...] = (400,)
) -> pathlib.Path:
    """A run directory as training leaves it."""
    run_dir.mkdir()
    record.write(config, run_dir / "config.json")
    for step in steps:
        assert Checkpointer(run_dir).save(step, tree, {})
    return run_dir


def python(code: str, gl: str = "") -> subprocess.CompletedProcess[str]:
    """What a fresh Python does with this code and MUJOCO_GL."""
    environment = {name: x for name, x in os.environ.items() if name != "MUJOCO_GL"}
    if gl:
        environment["MUJOCO_GL"] = gl
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        cwd=pathlib.Path(__file__).parents[2],
    )
