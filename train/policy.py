"""A trained agent for use elsewhere: observations in, actions out.

Examples:
    >>> policy = load_policy("runs/my-run")
    >>> policy.reset()
    >>> action = policy(obs)
"""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from core.agent import Agent
from core.networks.encoder import ImageEncoder
from envs import checks
from envs.checks import forked
from train.errors import UserError
from train.evaluate import choose_agents
from train.preflight import setup
from train.rollout.scores import load_agents
from train.run_dir.record import read_run


class Policy:
    """Acts with an agent, which remembers what it has seen since `reset`.

    Args:
        agent: a trained agent.
        obs_shape: of one observation.
        batch: how many observations come at a time, each of an environment of its own;
            None for one, without a batch axis.
        explore: sample from the policy, as in training; its mode otherwise.
        seed: of the latent states' and the actions' random numbers.

    Raises:
        ValueError: the agent does not observe arrays of this shape, or `batch` is less
            than 1.
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
        forked.check()
        self.agent = agent
        self._dtype = _check_shape(agent, tuple(obs_shape))
        self._batch = () if batch is None else (checks.whole("batch", batch),)
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
        obs: Any,
        is_first: Bool[np.ndarray | jax.Array, "..."] | bool | None = None,
    ) -> Float[np.ndarray, "*action"]:
        """The action for an observation, or one for each of a batch, in [-1, 1].

        Args:
            obs: `(*obs_shape)`, or `(batch, *obs_shape)`: real numbers; images are
                uint8.
            is_first: which observations begin an episode; what was before is forgotten.
                By default those after `reset`, and no other.

        Raises:
            ValueError: the observation has another shape or kind of number, or is not
                finite; or `is_first` does not fit. What is refused is not remembered:
                the next call goes on from the observation before.
        """
        forked.check()
        seen = self._checked(obs)
        first = self._first | self._flags(is_first)
        self._key, key = jax.random.split(self._key)
        self._state, self._action = self._act(
            self.agent,
            self._state,
            jnp.asarray(seen),
            self._action,
            jnp.asarray(first),
            key=key,
        )
        self._first = np.zeros(self._batch, bool)
        return np.asarray(self._action)

    def _checked(self, obs: Any) -> np.ndarray:
        """The observation in the agent's dtype; see `__call__`."""
        try:
            seen = np.asarray(obs)
        except (TypeError, ValueError):  # lists of unequal lengths
            seen = np.empty((), object)
        real = np.issubdtype(seen.dtype, np.number) or seen.dtype == bool
        real = real or jnp.issubdtype(seen.dtype, jnp.floating)  # bfloat16 as well
        if not real or np.issubdtype(seen.dtype, np.complexfloating):
            raise ValueError(
                f"obs is {type(obs).__name__} of {seen.dtype}: this policy takes one "
                f"array of {self._dtype}, of shape {self._obs_shape}"
            )
        if seen.shape != self._obs_shape:
            raise ValueError(
                f"obs has shape {seen.shape}: this policy takes {self._obs_shape}"
            )
        if self._dtype == np.uint8 and seen.dtype != np.uint8:
            raise ValueError(
                f"obs has dtype {seen.dtype}: images are uint8, from 0 to 255; of "
                "numbers from 0 to 1, (255 * image).astype(np.uint8)"
            )
        with np.errstate(over="ignore"):  # reported below
            seen = seen.astype(self._dtype)
        bad = np.argwhere(~np.isfinite(seen))
        if len(bad):
            where = tuple(map(int, bad[0]))
            more = f" and {len(bad) - 1} more entries" if len(bad) > 1 else ""
            raise ValueError(
                f"obs{list(where)} is {np.asarray(obs)[where]}{more}, not finite in "
                f"float32: leave the observation out, or give the last finite one"
            )
        return seen

    def _flags(self, is_first: Any) -> np.ndarray:
        flags = np.asarray(False if is_first is None else is_first)
        if flags.dtype.kind not in "biu" or flags.shape not in ((), self._batch):
            raise ValueError(
                f"is_first has shape {flags.shape} and dtype {flags.dtype}: this "
                f"policy takes a boolean, or booleans of shape {self._batch}"
            )
        return np.broadcast_to(flags.astype(bool), self._batch)


def _check_shape(agent: Agent, shape: tuple[int, ...]) -> np.dtype:
    """The dtype of an agent's observations, which must have this shape."""
    encoder = agent.model.encoder
    if isinstance(encoder, ImageEncoder):
        wanted, dtype = encoder.shape, np.dtype(np.uint8)
    else:
        wanted = (encoder.mlp.layers[0].linear.weight.shape[0],)
        dtype = np.dtype(np.float32)
    if shape != tuple(wanted):
        raise ValueError(
            f"obs_shape={shape}: this agent observes arrays of {tuple(wanted)}"
        )
    return dtype


def load_policy(
    run_dir: str | Path,
    *,
    agent: int = 0,
    at: int | None = None,
    batch: int | None = None,
    explore: bool = False,
    seed: int = 0,
) -> Policy:
    """The newest agent of a run, which may still be training.

    Args:
        run_dir: directory of the run.
        agent: which one of a run with several `--seeds`.
        at: environment step of the agent; the newest by default.
        batch: see `Policy`.
        explore: see `Policy`.
        seed: see `Policy`.

    Raises:
        UserError: there is no such run or agent, or no checkpoint yet.
    """
    path = Path(run_dir).expanduser()
    config = read_run(path)
    for name, value in {"agent": agent, "at": 0 if at is None else at}.items():
        if not isinstance(value, int | np.integer) or value < 0:
            raise UserError(f"{name}={value!r}: allowed: an integer from 0")
    choose_agents(agent, config.agents)
    env = setup.make_env(config)
    _, agents = load_agents(path, config, env, at)
    return Policy(
        agents[agent], env.spec.obs_shape, batch=batch, explore=explore, seed=seed
    )
