"""Which part of the model the return error of its own policy comes from.

Windows of H steps of real episodes are imagined again, with the random numbers of the
real actions: what the policy would have done in the imagined states. The difference of
the two returns is decomposed exactly by `core.theory.attribution.attribute_recorded`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from benchmarks.trust.episodes import Episodes, predict
from core.agent import Agent
from core.loops import block_gru
from core.rssm import State
from core.theory.attribution import Attribution, Recorded, attribute_recorded


class Windows(NamedTuple):
    """What the decomposition needs of each window; entry t is its step t.

    Attributes:
        true: what happened, with the realized return after the last step.
        model: the heads in the latent states after the observations.
        imagined: V̂_{H−t}(q_t).
        distance: ‖q_{t+1} − q̂‖, of the latent state after the observation and the one
            imagined from q_t with the same action.
    """

    true: Recorded
    model: Recorded
    imagined: Float[Array, "steps windows"]
    distance: Float[Array, "steps windows"]

    def attribute(self) -> Attribution:
        """The decomposition, in float64: its parts add up to 1e-10 of their size."""
        with jax.enable_x64(True):
            given = self.true, self.model, self.imagined
            found = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), given)
            return jax.device_get(attribute_recorded(*found))


def make_windows(*, steps: int, discount: float) -> Callable[..., Windows]:
    """A function `(agent, episodes, time, copy, value, key) ↦ Windows`.

    `time` and `copy` say where each window starts, `value` is the realized return
    after its last step.

    Args:
        steps: H.
        discount: γ.
    """

    def windows(
        agent: Agent,
        episodes: Episodes,
        time: Int[Array, " windows"],
        copy: Int[Array, " windows"],
        value: Float[Array, " windows"],
        key: PRNGKeyArray,
    ) -> Windows:
        shape = steps + 1, len(time)
        times = time[None] + jnp.arange(steps + 1)[:, None]
        rows = episodes.at(times, jnp.broadcast_to(copy, shape))
        latent, noise = jax.tree.map(lambda x: x[:-1], (rows.latent, rows.noise))
        shape = *noise.shape[:2], agent.model.rssm.categoricals
        random = noise, jax.random.uniform(key, shape)
        imagination = imagination_of(agent)
        imagined = imagined_returns(imagination, latent, random)
        after = jax.tree.map(lambda x: x[1:], rows.latent)
        distance = distances(after, imagination.step(latent, random)[0])
        heads = jax.tree.map(lambda x: x[1:], rows.heads)
        ended = jnp.where(rows.is_terminal[1:], 0.0, discount)
        return Windows(
            Recorded(rows.reward[1:], ended, value),
            Recorded(heads.reward, heads.discount, heads.value[-1]),
            imagined,
            distance,
        )

    return windows


def distances[S](one: S, other: S) -> Float[Array, "steps windows"]:
    """Euclidean, over all entries of states `[steps, windows, ...]`."""
    square = lambda x, y: jnp.sum(jnp.square(x - y), axis=tuple(range(2, x.ndim)))
    squares = jax.tree.leaves(jax.tree.map(square, one, other))
    return jnp.sqrt(sum(squares[1:], squares[0]))


class Imagination[S](NamedTuple):
    """How a model imagines, for batches of states of type S.

    Attributes:
        step: from states and random numbers to the next states, the rewards on arriving
            there, and the discounts of what follows.
        value: the return that follows a state.
    """

    step: Callable[[S, Any], tuple[S, Array, Array]]
    value: Callable[[S], Array]


def imagination_of(agent: Agent) -> Imagination[State]:
    """The agent's world model under its policy.

    Random numbers are standard normal ones for the action and uniform ones for ẑ.
    """
    rssm = agent.model.rssm

    def step(latent: State, random: tuple[Array, Array]) -> tuple[State, Array, Array]:
        noise, uniforms = random
        action = agent.policy(latent.features).at(noise).clip(-1.0, 1.0)
        h = block_gru.recurrent(rssm, latent, action)
        reached = State(h, rssm.sample(rssm.prior_logits(h), uniforms))
        heads = predict(agent, reached)
        return reached, heads.reward, heads.discount

    return Imagination(step, lambda latent: predict(agent, latent).value)


def imagined_returns[S](
    imagination: Imagination[S], states: S, random: Any
) -> Float[Array, "steps windows"]:
    """V̂_{H−t}(q_t): from each step of each window, imagined to the window's end.

    All rollouts that pass through one step of a window use the same random numbers
    there: they differ by their states alone.

    Args:
        states: q_t, arrays `[steps, windows, ...]`.
        random: of each step of each window, arrays `[steps, windows, ...]`.
    """
    steps, windows = jax.tree.leaves(random)[0].shape[:2]

    def step(carry: tuple[S, Array, Array], taken: Array) -> tuple[tuple, None]:
        states, weight, total = carry
        # Rollout t is at step t + taken of its window.
        at = jnp.arange(steps) + taken
        going = (at < steps)[:, None]
        now = jax.tree.map(lambda x: x[jnp.minimum(at, steps - 1)], random)
        reached, reward, discount = imagination.step(states, now)
        total = total + jnp.where(going, weight * reward, 0.0)
        weight = jnp.where(going, weight * discount, weight)
        return (_where(going, reached, states), weight, total), None

    shape = steps, windows
    start = states, jnp.ones(shape), jnp.zeros(shape)
    (states, weight, total), _ = jax.lax.scan(step, start, jnp.arange(steps))
    return total + weight * imagination.value(states)


def _where[S](going: Array, new: S, old: S) -> S:
    pick = lambda x, y: jnp.where(
        going.reshape(*going.shape, *[1] * (x.ndim - 2)), x, y
    )
    return jax.tree.map(pick, new, old)
