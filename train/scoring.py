"""The agents of a finished or running run, and the returns they earn."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from core.agent import Agent
from envs import Env, VectorEnv
from train.checkpoint import Checkpointer
from train.config import Config
from train.errors import UserError
from train.evaluation import make_evaluate
from train.state import init_agent

# Episodes played at once: more would not be faster on a CPU, and take memory.
BATCH = 64


class SavedLearner(NamedTuple):
    """The part of `train.state.Learner` that is read back, under the same name."""

    agent: Agent


class SavedRun(NamedTuple):
    """The part of `train.state.RunState` that is read back, under the same name."""

    learner: SavedLearner


def load_agents(run_dir: Path, config: Config, env: Env) -> tuple[int, list[Agent]]:
    """The trained agents of the newest checkpoint that can be read.

    Nothing else of the checkpoint is read: not the replay, nor the optimizer.

    Returns:
        The checkpoint's environment step, and one agent for each seed of the run.

    Raises:
        UserError: there is no checkpoint, or it is not one of this configuration.
    """
    init = lambda key: init_agent(config, VectorEnv(env, 1), key)  # noqa: E731
    key = jax.random.key(0)
    if config.seeds > 1:
        init, key = jax.vmap(init), jax.random.split(key, config.seeds)
    template = SavedRun(SavedLearner(jax.eval_shape(init, key)))
    restored = Checkpointer(run_dir).restore(template, partial=True)
    if restored is None:
        raise UserError(
            f"--run {run_dir}: holds no checkpoint; allowed: a run that has saved one "
            f"(train.main does so every {config.save_every:,} environment steps)"
        )
    agent = restored.tree.learner.agent
    if config.seeds == 1:
        return restored.step, [agent]
    one = lambda index: jax.tree.map(lambda x: x[index], agent)  # noqa: E731
    return restored.step, [one(index) for index in range(config.seeds)]


class Score(NamedTuple):
    """Undiscounted returns of separate episodes; `str` sums them up in a line."""

    returns: np.ndarray

    def __str__(self) -> str:
        s = self.record()
        return (
            f"return {s['mean']:.1f} ± {s['std']:.1f}, min {s['min']:.1f}, "
            f"max {s['max']:.1f} ({self.returns.size} episodes)"
        )

    def record(self) -> dict[str, Any]:
        """Mean, standard deviation over the episodes, extremes, and all returns."""
        returns = self.returns.astype(np.float64)
        return {
            "mean": float(returns.mean()),
            "std": float(returns.std()),
            "min": float(returns.min()),
            "max": float(returns.max()),
            "returns": returns.tolist(),
        }


def make_player(
    env: Env, episodes: int, seed: int, *, random_actions: bool = False
) -> Callable[[Agent], Score]:
    """A function that plays `episodes` episodes with the mode of an agent's policy.

    The starts depend on `episodes` and `seed` alone, so that agents, and the random
    policy, can be compared start by start.
    """
    batches = math.ceil(episodes / BATCH)
    size = math.ceil(episodes / batches)
    evaluate = jax.jit(
        make_evaluate(VectorEnv(env, size), random_actions=random_actions)
    )

    def play(agent: Agent) -> Score:
        keys = jax.random.split(jax.random.key(seed), batches)
        returns = [np.asarray(evaluate(agent, key)) for key in keys]
        return Score(np.concatenate(returns)[:episodes])

    return play
