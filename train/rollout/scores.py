"""The agents of a finished or running run, and the returns they earn."""

import math
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from core.agent import Agent
from envs import Env, VectorEnv
from train.checkpoint.saved_agents import SavedLearner, SavedRun, restore_agent
from train.config import Config
from train.config.schema import MAX_EVAL_DECISIONS
from train.errors import UserError, counted
from train.program.state import init_agent
from train.rollout.conditions import PLAIN, Conditions
from train.rollout.player import Acting, Poses, make_player

# Episodes played at once: more would not be faster on a CPU, and take memory.
BATCH = 64


def load_agents(
    run_dir: Path, config: Config, env: Env, at: int | None = None
) -> tuple[int, list[Agent]]:
    """The trained agents of the newest step that can be read, or of a given one.

    They are read from `agents/`, or from a whole checkpoint, of which nothing else is
    read: not the replay buffer, nor the optimizer.

    Args:
        at: environment step.

    Returns:
        The agents' environment step, and all agents of the run.

    Raises:
        UserError: there is no agent, or it is not one of this configuration.
    """
    init = lambda key: init_agent(config, VectorEnv(env, 1), key)
    key = jax.random.key(0)
    if config.agents > 1:
        init, key = jax.vmap(init), jax.random.split(key, config.agents)
    template = SavedRun(SavedLearner(jax.eval_shape(init, key)))
    restored = restore_agent(run_dir, template, at)
    if restored is None:
        raise UserError(
            f"--run {run_dir}: holds no checkpoint; allowed: a run that has saved one "
            f"(train.main does so every {config.save_every:,} environment steps)"
        )
    agent = restored.tree.learner.agent
    if config.agents == 1:
        return restored.step, [agent]
    one = lambda index: jax.tree.map(lambda x: x[index], agent)
    return restored.step, [one(index) for index in range(config.agents)]


class Score(NamedTuple):
    """What separate episodes earned under one condition; `str` sums it up in a line."""

    returns: Float[np.ndarray, " episodes"]
    """Undiscounted."""
    decisions: Int[np.ndarray, " episodes"]
    """Length of each episode."""
    cut_off: Bool[np.ndarray, " episodes"]
    """The episode was stopped before it ended; see `train.rollout.player`."""
    poses: Poses | None = None
    """Of the first episode, where asked for."""

    def __str__(self) -> str:
        s = self.record()
        text = (
            f"return {s['mean']:.1f} ± {s['std']:.1f}, min {s['min']:.1f}, "
            f"max {s['max']:.1f} ({counted(self.returns.size, 'episode')}"
        )
        if not s["cut_off"]:
            return f"{text})"
        longest = self.decisions.max()
        return f"{text}, {s['cut_off']} cut off after {longest:,} decisions)"

    def record(self) -> dict[str, Any]:
        """Mean, standard deviation over the episodes, extremes, and every episode."""
        returns = self.returns.astype(np.float64)
        return {
            "mean": float(returns.mean()),
            "std": float(returns.std()),
            "min": float(returns.min()),
            "max": float(returns.max()),
            "cut_off": int(self.cut_off.sum()),
            "returns": returns.tolist(),
            "decisions": self.decisions.tolist(),
        }


class Episodes(NamedTuple):
    """Which episodes are played, and how."""

    count: int
    seed: int
    acting: Acting = "mode"
    max_decisions: int = MAX_EVAL_DECISIONS


class Scorer(Protocol):
    """Plays an agent's episodes; `seed` is that of `Episodes` where it is not given."""

    def __call__(self, agent: Agent, seed: int = ...) -> list[Score]: ...


def make_scorer(
    env: Env,
    episodes: Episodes,
    conditions: Conditions = PLAIN,
    *,
    poses: bool = False,
) -> Scorer:
    """A function that plays an agent's episodes, with a score for each condition.

    The starts depend on the number of episodes and the seed alone, so that agents,
    conditions and ways of acting can be compared start by start.

    Args:
        poses: keep those of the first condition's first episode, for the first score;
            only for environments of MuJoCo.
    """
    batches = math.ceil(episodes.count / BATCH)
    play = jax.jit(
        make_player(
            env,
            math.ceil(episodes.count / batches),
            conditions,
            acting=episodes.acting,
            max_decisions=episodes.max_decisions,
            poses=poses,
        )
    )

    def score(agent: Agent, seed: int = episodes.seed) -> list[Score]:
        keys = jax.random.split(jax.random.key(seed), batches)
        played = [jax.device_get(play(agent, key)) for key in keys]
        rows = [
            np.concatenate(parts, axis=1)[:, : episodes.count]
            for parts in zip(*(batch[:3] for batch in played), strict=True)
        ]
        scores = [Score(*row) for row in zip(*rows, strict=True)]
        if (film := played[0].poses) is not None:
            # After the end of this episode the next one begins.
            length = int(scores[0].decisions[0])
            film = Poses(*(x[:length] for x in film))
            scores[0] = scores[0]._replace(poses=film)
        return scores

    return score
