"""A trained agent for use elsewhere: observations in, actions out.

>>> policy = load_policy("runs/my-run")
>>> policy.reset()
>>> action = policy(obs)
"""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Num

from core.agent import Agent
from train import start
from train.errors import UserError
from train.evaluate import choose_agents, read_config
from train.rollout.scores import load_agents


class Policy:
    """Acts with an agent, which remembers what it has seen since `reset`.

    Args:
        agent: a trained agent.
        obs_shape: of one observation.
        batch: how many observations come at a time, each of an environment of its own;
            None for one, without a batch axis.
        explore: sample from the policy, as in training; its mode otherwise.
        seed: of the latent states' and the actions' random numbers.
    """

    def __init__(
        self,
        agent: Agent,
        obs_shape: tuple[int, ...],
        *,
        batch: int | None = None,
        explore: bool = False,
        seed: int = 0,
    ) -> None:
        self.agent = agent
        self._batch = () if batch is None else (batch,)
        self._obs_shape = (*self._batch, *obs_shape)
        self._key = jax.random.key(seed)
        self._act = eqx.filter_jit(
            lambda agent, *args, key: agent.act(*args, key=key, explore=explore)
        )
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next observations begin new episodes."""
        self._state = self.agent.model.rssm.initial(*self._batch)
        size = self.agent.policy.mean.bias.size
        self._action = jnp.zeros((*self._batch, size), jnp.float32)
        self._first = np.ones(self._batch, bool)

    def __call__(
        self,
        obs: Num[np.ndarray | jax.Array, "*obs"],
        is_first: Bool[np.ndarray | jax.Array, "..."] | bool | None = None,
    ) -> Float[np.ndarray, "*action"]:
        """The action for an observation, or one for each of a batch, in [-1, 1].

        Args:
            obs: `(*obs_shape)`, or `(batch, *obs_shape)`; images are uint8.
            is_first: which observations begin an episode; what was before is forgotten.
                By default those after `reset`, and no other.

        Raises:
            ValueError: the observation's shape is another one.
        """
        if np.shape(obs) != self._obs_shape:
            raise ValueError(
                f"obs has shape {np.shape(obs)}: this policy takes {self._obs_shape}"
            )
        if is_first is not None:
            self._first = self._first | np.asarray(is_first, bool)
        self._key, key = jax.random.split(self._key)
        self._state, self._action = self._act(
            self.agent,
            self._state,
            jnp.asarray(obs),
            self._action,
            jnp.asarray(np.broadcast_to(self._first, self._batch)),
            key=key,
        )
        self._first = np.zeros(self._batch, bool)
        return np.asarray(self._action)


def load_policy(
    run_dir: str | Path,
    *,
    agent: int = 0,
    batch: int | None = None,
    explore: bool = False,
    seed: int = 0,
) -> Policy:
    """The newest agent of a run, which may still be going on.

    Args:
        run_dir: directory of the run.
        agent: which one of a run with several `--seeds`.
        batch, explore, seed: see `Policy`.

    Raises:
        UserError: there is no such run or agent, or no checkpoint yet.
    """
    path = Path(run_dir).expanduser()
    config = read_config(path)
    if agent < 0:
        raise UserError(f"agent={agent}: allowed: an integer from 0")
    choose_agents(agent, config.seeds)
    env = start.make_env(config)
    _, agents = load_agents(path, config, env)
    return Policy(
        agents[agent], env.spec.obs_shape, batch=batch, explore=explore, seed=seed
    )
