"""An environment from two functions: s' = f(s, a) and r(s, a), both deterministic."""

import abc
import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Num

from envs.base import Env, EnvSpec, State, Timestep, check_action_repeat, first_timestep


class MapState(State):
    """A point, the reward of the step that led there, and what every state holds."""

    point: Float[Array, "*batch size"]
    last_reward: Float[Array, "*batch"]
    key: Key[Array, "*batch"]
    step_count: Int[Array, "*batch"]
    needs_reset: Bool[Array, "*batch"]
    corrupt_count: Int[Array, "*batch"]


class MapEnv(Env[MapState]):
    """Episodes of a deterministic map that end by time; subclasses give the maps.

    The observation is the point itself; actions are in [-1, 1].
    """

    episode_steps: int

    def __init__(self, *, name: str, action_repeat: int, size: int, action_dim: int):
        """Args: canonical name; steps per decision; sizes of point and action.

        Raises:
            ValueError: `action_repeat` does not divide the episode.
        """
        check_action_repeat(action_repeat, self.episode_steps)
        self.spec = EnvSpec(
            name=name,
            obs_shape=(size,),
            action_dim=action_dim,
            action_repeat=action_repeat,
            episode_steps=self.episode_steps,
            control_timestep=1.0,
        )

    @abc.abstractmethod
    def initial(self, key: Key[Array, ""]) -> Float[Array, " size"]:
        """Draws the point in which an episode starts."""

    @abc.abstractmethod
    def move(
        self, point: Float[Array, " size"], action: Float[Array, " action"]
    ) -> Float[Array, " size"]:
        """f(s, a): the point one control step later."""

    @abc.abstractmethod
    def value(
        self, point: Float[Array, " size"], action: Float[Array, " action"]
    ) -> Float[Array, ""]:
        """r(s, a): the reward of a control step from `point`."""

    def reset(self, key: Key[Array, ""]) -> tuple[MapState, Timestep]:
        zero = jnp.zeros((), jnp.int32)
        state = MapState(
            point=jnp.zeros(self.spec.obs_shape),
            last_reward=jnp.zeros(()),
            key=key,
            step_count=zero,
            needs_reset=jnp.asarray(False),
            corrupt_count=zero,
        )
        return self.restart(state)

    def restart(self, state: MapState) -> tuple[MapState, Timestep]:
        next_key, draw_key = jax.random.split(state.key)
        state = dataclasses.replace(
            state,
            point=self.initial(draw_key),
            last_reward=jnp.zeros(()),
            key=next_key,
            step_count=jnp.zeros((), jnp.int32),
            needs_reset=jnp.asarray(False),
        )
        return state, first_timestep(self.observe(state))

    def advance(
        self, state: MapState, action: Num[Array, " action"]
    ) -> tuple[MapState, Timestep]:
        clipped = self._clipped(action)

        def control_step(point, _):
            return self.move(point, clipped), self.value(point, clipped)

        point, rewards = jax.lax.scan(
            control_step, state.point, length=self.spec.action_repeat
        )
        corrupt = ~(jnp.all(jnp.isfinite(point)) & jnp.all(jnp.isfinite(rewards)))
        state = dataclasses.replace(
            state,
            point=jnp.where(corrupt, state.point, point),
            last_reward=jnp.where(corrupt, 0.0, rewards[-1]),
        )
        return self._end_decision(state, reward=jnp.sum(rewards), corrupt=corrupt)

    def observe(self, state: MapState) -> Float[Array, " obs"]:
        return state.point

    def reward(self, state: MapState) -> Float[Array, ""]:
        return state.last_reward
