"""Acting: the policy steps all environments and writes every row to the replay."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from core.agent import Agent
from envs import VectorEnv
from kernels.sharding import divided
from train.config import Config
from train.program import replay
from train.program.latent import latent_error
from train.program.state import Collector, latest_transition

type Carry = tuple[Collector, replay.Replay]
"""What acting changes."""


class Episodes(NamedTuple):
    """Episodes finished while collecting: sums, so that they can be added up.

    Attributes:
        count: of episodes; one whose first step is corrupt contains no decision and is
            not counted.
        return_sum: of their returns.
        corrupt: steps that are not finite, first steps included.
    """

    count: Int[Array, ""]
    return_sum: Float[Array, ""]
    corrupt: Int[Array, ""]


def collect_step(
    config: Config,
    env: VectorEnv,
    agent: Agent,
    carry: Carry,
    key: PRNGKeyArray,
    *,
    random: bool = False,
) -> tuple[Carry, Episodes]:
    """Filter the current observation, store its row, and take one decision.

    The row has the action that led to the observation; the one taken here is stored
    with the next row.

    Args:
        random: the action is uniform in [−1, 1], not the policy's.
    """
    collector, buffer = carry
    timestep = collector.timestep
    seen = (
        collector.latent,
        timestep.obs,
        collector.last_action,
        timestep.is_first,
    )
    observe_key, action_key = jax.random.split(key)
    latent, clean = agent.observe_with_error(
        *seen, key=observe_key, error=latent_error(config)
    )
    action = agent.choose(latent, key=action_key)
    if random:
        random_key = jax.random.fold_in(key, 1)
        action = jax.random.uniform(random_key, action.shape, minval=-1.0)
    row = latest_transition(config, collector._replace(latent=clean))
    buffer = replay.add(buffer, row)
    # Each device its own: a simulator's loops end when its own environments' do.
    env_state, following = divided(env.step, (0, 0), 0)(collector.env_state, action)
    running = collector.episode_return + following.reward
    ended = following.is_last & ~following.is_first
    episodes = Episodes(
        jnp.sum(ended, dtype=jnp.int32),
        jnp.sum(jnp.where(ended, running, 0.0)),
        jnp.sum(following.is_corrupt, dtype=jnp.int32),
    )
    collector = Collector(
        env_state,
        following,
        latent,
        action,
        jnp.where(ended, 0.0, running),
        # The row that begins an episode answers no decision.
        collector.decisions + jnp.sum(~following.is_first, dtype=jnp.int32),
    )
    return (collector, buffer), episodes


@jax.named_scope("collect")
def collect(
    config: Config,
    env: VectorEnv,
    agent: Agent,
    carry: Carry,
    keys: PRNGKeyArray,
    *,
    random: bool = False,
) -> tuple[Carry, Episodes]:
    """A row of every environment for each key, and the episodes that ended in them."""
    step = partial(collect_step, config, env, agent, random=random)
    carry, episodes = jax.lax.scan(step, carry, keys)
    return carry, jax.tree.map(jnp.sum, episodes)
