"""True branches: imagined actions taken in the simulator, from the same state.

Environments are pure functions, so the state of any visited step can be branched off.
From it the model imagines actions, observations and rewards; the simulator, given the
same actions, says what would have happened. Nothing but the model differs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from benchmarks.trust.episodes import Episodes, Heads, predict
from core.agent import Agent
from core.loops import block_gru
from core.rssm import State
from envs import Env, VectorEnv


class Branches(NamedTuple):
    """Entry h − 1 is that of horizon h: after h actions.

    Attributes:
        imagined: the heads in imagined states.
        start: the heads in the states branched from.
        reward: the true one.
        discount: the true one: γ, and 0 after a terminal state.
        known: the branch had neither ended before this step nor diverged.
        error: squared error of the imagined observation, in units of the variance of
            observations: 1 is that of predicting their mean.
        unchanged: the same for a prediction that nothing changes.
    """

    imagined: Heads
    start: Heads
    reward: Float[Array, "horizon starts"]
    discount: Float[Array, "horizon starts"]
    known: Bool[Array, "horizon starts"]
    error: Float[Array, "horizon starts"]
    unchanged: Float[Array, "horizon starts"]


def make_branch(
    env: Env, *, starts: int, horizon: int, discount: float
) -> Callable[[Agent, Episodes, Array, PRNGKeyArray], Branches]:
    """A function `(agent, chosen, variance, key) ↦ Branches`.

    `chosen` are the entries `[starts]` of episodes (`Episodes.at`) to branch from, and
    `variance` that of observations: one number for images, else one for each entry.

    Args:
        discount: γ.
    """
    batch = VectorEnv(env, starts)
    image = env.spec.is_image

    def as_floats(obs: Array) -> Array:
        return obs.astype(jnp.float32) / 255 if image else obs

    def branch(
        agent: Agent, chosen: Episodes, variance: Array, key: PRNGKeyArray
    ) -> Branches:
        noise_key, prior_key = jax.random.split(key)
        rssm = agent.model.rssm
        noise = jax.random.normal(noise_key, (horizon, *chosen.action.shape))
        uniforms = jax.random.uniform(prior_key, (horizon, starts, rssm.categoricals))

        def act(state: State, noise: Array) -> tuple[Array, tuple[State, Array]]:
            action = agent.policy(state.features).at(noise).clip(-1.0, 1.0)
            return action, (state, action)

        end, (states, actions) = block_gru.imagine(
            rssm, chosen.latent, act, noise, uniforms=uniforms
        )
        imagined = jax.tree.map(
            lambda x, last: jnp.concatenate([x[1:], last[None]]), states, end
        )

        def distance(obs: Array, guess: Array) -> Array:
            squares = jnp.square(as_floats(obs) - guess)
            squares = squares / jnp.broadcast_to(variance, squares.shape)
            return jnp.mean(squares.reshape(starts, -1), axis=-1)

        def step(carry: Any, given: tuple) -> tuple[Any, tuple]:
            state, going = carry
            action, guess = given
            state, timestep = batch.step(state, action)
            known = going & ~timestep.is_corrupt
            seen = (
                timestep.reward,
                jnp.where(timestep.is_terminal, 0.0, discount),
                known,
                distance(timestep.obs, agent.model.decoder(guess.features)),
                distance(timestep.obs, as_floats(chosen.obs)),
            )
            return (state, known & ~timestep.is_last), seen

        going = jnp.ones(starts, bool)
        _, seen = jax.lax.scan(step, (chosen.state, going), (actions, imagined))
        return Branches(predict(agent, imagined), chosen.heads, *seen)

    return branch
