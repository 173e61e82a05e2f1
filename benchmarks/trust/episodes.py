"""Episodes under an agent's own policy, with simulator states beside latent states."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num, PRNGKeyArray

from core.agent import Agent
from core.loops import block_gru
from core.states import ObserveInputs, State
from envs import Env, VectorEnv


class Heads(NamedTuple):
    """Predictions in latent states; see `core.behavior.imagination.Imagined`."""

    reward: Float[Array, "*batch"]
    """r̂: of the step that arrived in the state."""
    discount: Float[Array, "*batch"]
    """d̂: γ times the probability to go on from the state."""
    value: Float[Array, "*batch"]
    """v̂: the return after the state."""


class Episodes(NamedTuple):
    """Entry t is what was seen at time t, and the action that answered it.

    All arrays begin with `[time, copies]`.

    Attributes:
        state: of the simulator.
        latent: q_t, the latent state after the observation.
        heads: predictions in q_t.
        obs: the observation.
        action: a_t, sampled from the policy.
        noise: standard normal, of which the action was made.
        reward: received on arriving at t.
        is_first, is_last, is_terminal, is_corrupt: see `envs.Timestep`.
    """

    state: Any
    latent: State
    heads: Heads
    obs: Num[Array, "..."]
    action: Float[Array, "time copies action"]
    noise: Float[Array, "time copies action"]
    reward: Float[Array, "time copies"]
    is_first: Bool[Array, "time copies"]
    is_last: Bool[Array, "time copies"]
    is_terminal: Bool[Array, "time copies"]
    is_corrupt: Bool[Array, "time copies"]

    def at(self, time: Any, copy: Any) -> "Episodes":
        """Entries of those times and copies."""
        return jax.tree.map(lambda x: x[time, copy], self)


def predict(agent: Agent, latent: State) -> Heads:
    """The heads' means in latent states."""
    features = latent.features
    model = agent.model
    return Heads(
        model.reward(features).mean(),
        model.cont(features).mean(),
        agent.value(features).mean(),
    )


def make_record(
    env: Env, *, copies: int, decisions: int
) -> Callable[[Agent, PRNGKeyArray], Episodes]:
    """A function `(agent, key) ↦ Episodes`: `copies` environments, from their start."""
    batch = VectorEnv(env, copies)
    shape = copies, env.spec.action_dim

    def record(agent: Agent, key: PRNGKeyArray) -> Episodes:
        reset_key, act_key = jax.random.split(key)
        state, timestep = batch.reset(reset_key)

        def step(carry: Any, key: PRNGKeyArray) -> tuple[Any, Episodes]:
            state, timestep, latent, action = carry
            observe_key, noise_key = jax.random.split(key)
            latent = agent.observe(
                latent, timestep.obs, action, timestep.is_first, key=observe_key
            )
            noise = jax.random.normal(noise_key, shape)
            action = agent.policy(latent.features).at(noise).clip(-1.0, 1.0)
            seen = Episodes(
                state,
                latent,
                predict(agent, latent),
                timestep.obs,
                action,
                noise,
                timestep.reward,
                timestep.is_first,
                timestep.is_last,
                timestep.is_terminal,
                timestep.is_corrupt,
            )
            return (*batch.step(state, action), latent, action), seen

        start = state, timestep, agent.model.rssm.initial(copies), jnp.zeros(shape)
        return jax.lax.scan(step, start, jax.random.split(act_key, decisions))[1]

    return record


def follow(agent: Agent, episodes: Episodes, key: PRNGKeyArray) -> Episodes:
    """The same episodes in the latent states of another agent.

    `noise` remains that of the agent that acted.
    """
    before = jnp.concatenate(
        [jnp.zeros_like(episodes.action[:1]), episodes.action[:-1]]
    )
    rssm, embeds = agent.model.rssm, agent.model.encoder(episodes.obs)
    _, observed = block_gru.observe(
        rssm,
        rssm.initial(episodes.action.shape[1]),
        ObserveInputs(embeds, before, episodes.is_first),
        key=key,
    )
    states = observed.states
    return episodes._replace(latent=states, heads=predict(agent, states))


def goes_on(episodes: Episodes, length: int) -> Bool[np.ndarray, "time copies"]:
    """Where the following `length` steps belong to the same episode and are sound.

    The last of them may end the episode; none may have diverged (NaN or Inf).
    """
    last = np.asarray(episodes.is_last)
    time = len(last)
    allowed = np.zeros_like(last)
    if time <= length:
        return allowed
    # The number of ends before each time: no end may lie at t … t + length − 1.
    ends = np.concatenate([np.zeros_like(last[:1], int), np.cumsum(last, axis=0)])
    broken = np.cumsum(np.asarray(episodes.is_corrupt), axis=0)
    starts = time - length
    none_between = ends[length:time] == ends[:starts]
    sound = broken[length:] == broken[:starts]
    allowed[:starts] = none_between & sound & ~np.asarray(episodes.is_corrupt)[:starts]
    return allowed


def realized_returns(
    episodes: Episodes, discount: float
) -> Float[np.ndarray, "time copies"]:
    """Discounted return after each time, to the end of its episode.

    Where a time limit or the end of the record cuts the episode off, the critic's value
    there stands for the rest.

    Args:
        discount: γ.
    """
    reward, value = (
        np.asarray(x, np.float64) for x in (episodes.reward, episodes.heads.value)
    )
    last, terminal = np.asarray(episodes.is_last), np.asarray(episodes.is_terminal)
    found = np.empty_like(reward)
    found[-1] = value[-1]
    for time in range(len(reward) - 1, -1, -1):
        if time < len(reward) - 1:
            found[time] = reward[time + 1] + discount * found[time + 1]
        ends = last[time]
        found[time] = np.where(
            ends, np.where(terminal[time], 0.0, value[time]), found[time]
        )
    return found
