"""Environments of two deterministic functions, s' = f(s, a) and r(s, a)."""

import abc
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from envs.adapters.inner import InnerEnv, InnerState
from envs.base import EnvSpec


class Place(NamedTuple):
    """A point, and the reward of the control step that led there."""

    point: Float[Array, "*batch size"]
    reward: Float[Array, "*batch"]


class MapEnv(InnerEnv):
    """A deterministic map whose episodes end by time; subclasses define f and r.

    The simulator's state is a `Place`, the observation its point; actions are in
    [-1, 1].
    """

    episode_steps: int

    def __init__(self, *, name: str, action_repeat: int, size: int, action_dim: int):
        """Args: canonical name; control steps per decision; sizes of point and action.

        Raises:
            ValueError: `action_repeat` does not divide the episode.
        """
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

    def initial_inner(self, key: Key[Array, ""]) -> Place:
        return Place(self.initial(key), jnp.zeros(()))

    def control_step(
        self, inner: Place, action: Float[Array, " action"]
    ) -> tuple[Place, Float[Array, ""]]:
        reward = self.value(inner.point, action)
        return Place(self.move(inner.point, action), reward), reward

    def observe(self, state: InnerState) -> Float[Array, " obs"]:
        return state.inner.point

    def reward(self, state: InnerState) -> Float[Array, ""]:
        return state.inner.reward
