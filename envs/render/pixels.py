"""Pixel observations of a MuJoCo environment."""

import dataclasses

from jaxtyping import Array, Float, Key, Num, UInt8

from envs.base import Env, Timestep
from envs.mjx.env import MjxEnv
from envs.mjx.states import MjxState
from envs.render import Renderer

SIZE = 64


class PixelEnv(Env[MjxState]):
    """A MuJoCo environment with images of its task's camera as observations.

    An observation is `(size, size, 3)` uint8, by default 64 × 64 × 3. Physics, rewards,
    episodes and states are those of `inner`. One image per step is rendered, of the
    state in which the step ends: also under `jax.vmap(env.step)`, where the inner
    environment computes both a decision and a new episode.

    Attributes:
        inner: the environment with state observations.
        renderer: renders its states.
    """

    def __init__(self, inner: MjxEnv, *, size: int = SIZE):
        """Args: the environment; height and width of the images in pixels.

        Raises:
            ValueError: the model lacks the task's camera, or shows something that
                `envs.render` cannot draw.
        """
        self.inner = inner
        self.renderer = Renderer(inner.model, camera=inner.task.camera, size=size)
        self.spec = dataclasses.replace(
            inner.spec,
            obs_shape=(size, size, 3),
            obs_dtype="uint8",
            obs_entries=(),
        )

    @property
    def unrendered(self) -> MjxEnv:
        return self.inner

    def reset(self, key: Key[Array, ""]) -> tuple[MjxState, Timestep]:
        return self._seen(*self.inner.reset(key))

    def restart(self, state: MjxState) -> tuple[MjxState, Timestep]:
        return self._seen(*self.inner.restart(state))

    def advance(
        self, state: MjxState, action: Num[Array, " action"]
    ) -> tuple[MjxState, Timestep]:
        return self._seen(*self.inner.advance(state, action))

    def step(
        self, state: MjxState, action: Num[Array, " action"]
    ) -> tuple[MjxState, Timestep]:
        return self._seen(*self.inner.step(state, action))

    def observe(self, state: MjxState) -> UInt8[Array, "height width 3"]:
        return self.inner.measure(state, lambda _, data: self.renderer(data))

    def reward(self, state: MjxState) -> Float[Array, ""]:
        return self.inner.reward(state)

    def from_physics(self, *args, **kwargs) -> MjxState:
        """See `MjxEnv.from_physics`."""
        return self.inner.from_physics(*args, **kwargs)

    def with_gravity(
        self, state: MjxState, gravity: float | Num[Array, "..."]
    ) -> MjxState:
        """See `MjxEnv.with_gravity`."""
        return self.inner.with_gravity(state, gravity)

    def with_physics(self, state: MjxState, **changes) -> MjxState:
        """See `MjxEnv.with_physics`."""
        return self.inner.with_physics(state, **changes)

    def _seen(self, state: MjxState, timestep: Timestep) -> tuple[MjxState, Timestep]:
        # A corrupt decision does not change the state, hence not the image either.
        return state, dataclasses.replace(timestep, obs=self.observe(state))
