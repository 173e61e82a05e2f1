"""Playing whole episodes with the mode of the policy, apart from training."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from core.agent import Agent
from envs import Timestep, VectorEnv

Returns = Float[Array, " episodes"]


def make_evaluate(
    env: VectorEnv, *, random_actions: bool = False
) -> Callable[[Agent, PRNGKeyArray], Returns]:
    """A function that plays one episode in every environment of `env`.

    Args:
        random_actions: uniform random actions instead of the policy's mode: the
            baseline every return should be compared with.

    Returns:
        `(agent, key) ↦ [episodes]` undiscounted returns, summed over control steps.
        Environments start afresh at every call.
    """

    def evaluate(agent: Agent, key: PRNGKeyArray) -> Returns:
        keep = lambda _, timestep: (timestep.reward, timestep.is_last)  # noqa: E731
        visited = play(env, agent, key, keep, random_actions=random_actions)
        return episode_returns(*visited)

    return evaluate


def play(
    env: VectorEnv,
    agent: Agent,
    key: PRNGKeyArray,
    keep: Callable[[Any, Timestep], PyTree],
    *,
    random_actions: bool = False,
) -> PyTree:
    """One episode in every environment of `env`.

    Args:
        keep: what to keep of the environments' states and timesteps after each
            decision; keeping images takes memory.

    Returns:
        What was kept, stacked along a first axis.
    """
    reset_key, act_key = jax.random.split(key)
    batch = env.num_envs
    env_state, timestep = env.reset(reset_key)
    latent = agent.model.rssm.initial(batch)
    action = jnp.zeros((batch, env.spec.action_dim), jnp.float32)

    def step(carry, key):
        env_state, timestep, latent, action = carry
        if random_actions:
            action = jax.random.uniform(key, action.shape, minval=-1.0)
        else:
            latent, action = agent.act(
                latent, timestep.obs, action, timestep.is_first, key=key, explore=False
            )
        env_state, timestep = env.step(env_state, action)
        return (env_state, timestep, latent, action), keep(env_state, timestep)

    keys = jax.random.split(act_key, env.spec.episode_decisions)
    _, visited = jax.lax.scan(step, (env_state, timestep, latent, action), keys)
    return visited


def episode_returns(
    reward: Float[Array, "time episodes"], is_last: Bool[Array, "time episodes"]
) -> Returns:
    """Sum of rewards up to and including each environment's first `is_last` row."""
    ended = jnp.cumsum(is_last, axis=0) - is_last
    return jnp.sum(jnp.where(ended > 0, 0.0, reward), axis=0)
