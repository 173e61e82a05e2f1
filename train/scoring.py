"""The agents of a finished or running run, and the returns they earn."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from core.agent import Agent
from envs import Env, Timestep, VectorEnv
from train.checkpoint import Checkpointer
from train.conditions import Conditions, first_pose, make_condition_player
from train.config import Config
from train.errors import UserError
from train.evaluation import episode_returns, play
from train.state import init_agent
from train.video import Poses

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
    """What separate episodes earned; `str` sums it up in a line."""

    returns: Float[np.ndarray, " episodes"]
    """Undiscounted."""
    poses: Poses | None
    """Of the first episode, where asked for."""

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
    env: Env,
    episodes: int,
    seed: int,
    *,
    random_actions: bool = False,
    poses: bool = False,
) -> Callable[[Agent], Score]:
    """A function that plays `episodes` episodes with the mode of an agent's policy.

    The starts depend on `episodes` and `seed` alone, so that agents, and the random
    policy, can be compared start by start.

    Args:
        random_actions: uniform random actions instead of the policy's mode.
        poses: keep those of the first episode; only for environments of MuJoCo.
    """
    batches = math.ceil(episodes / BATCH)
    vector = VectorEnv(env, math.ceil(episodes / batches))

    def keep(state: Any, timestep: Timestep) -> Any:
        first = first_pose(state, timestep) if poses else None
        return timestep.reward, timestep.is_last, first

    @jax.jit
    def play_batch(agent: Agent, key: PRNGKeyArray) -> Any:
        visited = play(vector, agent, key, keep, random_actions=random_actions)
        reward, is_last, first = visited
        return episode_returns(reward, is_last)[None], first

    return lambda agent: _play_all(play_batch, agent, episodes, seed)[0]


def make_condition_scorer(
    env: Env,
    episodes: int,
    seed: int,
    conditions: Conditions,
    *,
    random_actions: bool = False,
    poses: bool = False,
) -> Callable[[Agent], list[Score]]:
    """As `make_player`, with one score for each condition.

    The starts are those of `make_player`; poses are those of the first condition.
    """
    count = math.ceil(episodes / math.ceil(episodes / BATCH))
    play_batch = jax.jit(
        make_condition_player(
            env, count, conditions, random_actions=random_actions, poses=poses
        )
    )
    return lambda agent: _play_all(play_batch, agent, episodes, seed)


def _play_all(
    play_batch: Callable[[Agent, PRNGKeyArray], Any],
    agent: Agent,
    episodes: int,
    seed: int,
) -> list[Score]:
    """A score for each row of returns; the first of them gets the poses."""
    keys = jax.random.split(jax.random.key(seed), math.ceil(episodes / BATCH))
    played = [jax.device_get(play_batch(agent, key)) for key in keys]
    returns = np.concatenate([rows for rows, _ in played], axis=1)[:, :episodes]
    scores = [Score(row, None) for row in returns]
    if (first := played[0][1]) is not None:
        poses, is_last = first
        # A corrupt simulation ends an episode early, and the next one begins.
        end = int(np.argmax(is_last)) + 1
        scores[0] = Score(returns[0], Poses(*(x[:end] for x in poses)))
    return scores
