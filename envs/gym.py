"""Gymnasium interface, for viewing and for other libraries' agents.

    from envs import gym
    env = gym.make("walker-walk", render_mode="rgb_array")
    batch = gym.make_vec("walker-walk", num_envs=16)

Gymnasium is the optional extra `gym`. Every step transfers data between device and
host; for fast training use `envs.VectorEnv` inside a compiled program.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from envs import registry
from envs.base import Env, EnvSpec, Timestep, mark_corrupt, timestep_obs
from envs.checks import forked
from envs.mjx.env import MjxEnv
from envs.render.opengl import BodyRenderer, body_of
from envs.render.pixels import PixelEnv
from envs.vector import VectorEnv

try:
    import gymnasium
    from gymnasium.vector import AutoresetMode
    from gymnasium.vector.utils import batch_space
except ImportError as error:
    raise ImportError(
        "envs.gym needs gymnasium, which is not installed: pip install "
        "'smooth-dreamer[gym]' or uv sync --extra gym"
    ) from error

_SPECS: dict[tuple[str, str, int], EnvSpec] = {}
"""Specs of the environments made in this process, for `_Forked`."""

PHYSICS = ("gravity", "friction", "mass", "gain")


class GymEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One environment behind Gymnasium's interface.

    Observations are `(*obs_shape)` arrays of the environment's own dtype, actions
    `(action_dim,)` in [-1, 1]. An episode is `truncated` by its time limit, or when the
    simulation diverged (`info["is_corrupt"]`, see `envs.Timestep`), and `terminated` by
    a terminal state. An episode that diverges at its reset is truncated by its first
    step.

    `reset(seed=...)` determines all later episodes. With
    `reset(options={"gravity": 4.0, "mass": 1.2})` this episode has other physics
    parameters (`envs.PhysicsParameters`); later episodes do not keep them.
    """

    def __init__(
        self, env: Env, *, render_mode: str | None = None, size: tuple[int, int]
    ):
        """Args: an environment; None or "rgb_array"; height and width of a frame.

        Raises:
            ValueError: the mode is unknown, or the environment has no MuJoCo model.
        """
        decision = env.spec.control_timestep * env.spec.action_repeat
        self.metadata = {
            "render_modes": [] if body_of(env) is None else ["rgb_array"],
            "render_fps": max(1, round(1 / decision)),
        }
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(
                f"render_mode={render_mode!r}: {env.spec.name} has "
                f"{[None, *self.metadata['render_modes']]}"
            )
        self.env = env
        self.render_mode = render_mode
        self.observation_space = observation_space(env.spec)
        self.action_space = action_space(env.spec)
        self._size = size
        self._renderer: BodyRenderer | None = None
        self._state: Any = None
        self._reset = jax.jit(env.reset)
        self._advance = jax.jit(env.advance)
        self._seen = jax.jit(functools.partial(_seen, env.observe))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode; see the class for the seed and the options.

        Raises:
            ValueError: an option is unknown, or its value is out of range.
        """
        forked.check()
        super().reset(seed=seed)
        number = self.np_random.integers(2**31)
        self._state, timestep = self._reset(jax.random.key(int(number)))
        if options:
            changed = _with_options(self.env, self._state, options)
            self._state, timestep = self._seen(changed, timestep)
        return np.array(timestep.obs), {"is_corrupt": bool(timestep.is_corrupt)}

    def step(
        self, action: np.ndarray
    ) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One decision, `action_repeat` control steps.

        Raises:
            gymnasium.error.ResetNeeded: there was no `reset` yet.
            ValueError: the action's shape is not `(action_dim,)`.
        """
        forked.check()
        if self._state is None:
            raise gymnasium.error.ResetNeeded("call reset before the first step")
        self._state, timestep = self._advance(self._state, jnp.asarray(action))
        timestep = jax.device_get(timestep)
        terminated = bool(timestep.is_terminal)
        return (
            np.array(timestep.obs),
            float(timestep.reward),
            terminated,
            bool(timestep.is_last) and not terminated,
            {"is_corrupt": bool(timestep.is_corrupt)},
        )

    def render(self) -> UInt8[np.ndarray, "height width 3"] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """An image of the current state from the task's camera; None without a mode.

        Raises:
            gymnasium.error.ResetNeeded: there was no `reset` yet.
            RuntimeError: MuJoCo finds nothing to draw with.
        """
        if self.render_mode is None:
            return None
        if self._state is None:
            raise gymnasium.error.ResetNeeded("call reset before render")
        if self._renderer is None:
            body = body_of(self.env)
            assert body is not None  # the others have no render mode
            self._renderer = BodyRenderer(body, *self._size)
        return self._renderer(self._state.qpos, self._state.scene)

    def close(self) -> None:
        """Release the OpenGL context."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


class _Forked(gymnasium.Env[np.ndarray, np.ndarray]):
    """The spaces of an environment, with a `reset` that raises.

    Gymnasium's workers report errors of `reset` to the parent process, but not errors
    of constructing an environment: the parent would only see a closed pipe.
    """

    def __init__(self, spec: EnvSpec):
        self.observation_space = observation_space(spec)
        self.action_space = action_space(spec)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        forked.check()
        raise AssertionError("made in forked processes only")


class GymVectorEnv(gymnasium.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """`num_envs` copies behind Gymnasium's vector interface, advanced by one program.

    The step after the end of an episode resets it; its action is ignored, and its
    reward is 0: Gymnasium's `AutoresetMode.NEXT_STEP`.
    """

    def __init__(self, env: Env, num_envs: int):
        """Args: an environment; how many copies, at least 1.

        Raises:
            ValueError: `num_envs` is less than 1.
        """
        batch = VectorEnv(env, num_envs)
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.env = env
        self.num_envs = num_envs
        self.single_observation_space = observation_space(env.spec)
        self.single_action_space = action_space(env.spec)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._state: Any = None
        self._reset = jax.jit(batch.reset)
        self._step = jax.jit(batch.step)
        self._seen = jax.jit(functools.partial(_seen, jax.vmap(env.observe)))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start every copy, each with its own key derived from the seed.

        Options are physics parameters: one number, or one per copy. Later episodes keep
        them.
        """
        forked.check()
        super().reset(seed=seed)
        number = self.np_random.integers(2**31)
        self._state, timestep = self._reset(jax.random.key(int(number)))
        if options:
            changed = _with_options(self.env, self._state, options)
            self._state, timestep = self._seen(changed, timestep)
        return np.array(timestep.obs), {"is_corrupt": np.array(timestep.is_corrupt)}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One decision of every copy; see `GymEnv.step`."""
        forked.check()
        if self._state is None:
            raise gymnasium.error.ResetNeeded("call reset before the first step")
        self._state, timestep = self._step(self._state, jnp.asarray(actions))
        timestep = jax.device_get(timestep)
        terminated = np.array(timestep.is_terminal)
        return (
            np.array(timestep.obs),
            np.array(timestep.reward),
            terminated,
            timestep.is_last & ~terminated,
            {"is_corrupt": np.array(timestep.is_corrupt)},
        )


def make(
    name: str,
    *,
    obs: str = "state",
    action_repeat: int = 2,
    render_mode: str | None = None,
    height: int = 240,
    width: int = 320,
) -> gymnasium.Env[np.ndarray, np.ndarray]:
    """`envs.make(name, obs=..., action_repeat=...)` as a Gymnasium environment.

    Args:
        render_mode: "rgb_array" for frames of `height` × `width` pixels from `render`.

    Raises:
        ValueError: an argument is unknown or does not fit.
        RuntimeError: the process was forked from one in which JAX runs; where
            Gymnasium forked it, from `reset`, whose errors it hands on to the parent.
    """
    what = name, obs, action_repeat
    if forked.is_forked() and what in _SPECS:
        return _Forked(_SPECS[what])
    env = registry.make(name, obs=obs, action_repeat=action_repeat)
    _SPECS[what] = env.spec
    return GymEnv(env, render_mode=render_mode, size=(height, width))


def make_vec(
    name: str, *, num_envs: int, obs: str = "state", action_repeat: int = 2
) -> GymVectorEnv:
    """`num_envs` copies of `envs.make(name, ...)` as a Gymnasium vector environment.

    Raises:
        ValueError: an argument is unknown or does not fit.
    """
    env = registry.make(name, obs=obs, action_repeat=action_repeat)
    return GymVectorEnv(env, num_envs)


def observation_space(spec: EnvSpec) -> gymnasium.spaces.Box:
    """Unbounded floats, or bytes for images."""
    low, high = (0, 255) if spec.is_image else (-np.inf, np.inf)
    dtype: Any = np.dtype(spec.obs_dtype).type
    return gymnasium.spaces.Box(low, high, spec.obs_shape, dtype)


def action_space(spec: EnvSpec) -> gymnasium.spaces.Box:
    """The bounds to which actions are clipped."""
    shape = (spec.action_dim,)
    return gymnasium.spaces.Box(spec.action_low, spec.action_high, shape, np.float32)


def _seen(observe: Callable[[Any], Any], state: Any, timestep: Timestep) -> Any:
    """A state with changed physics, and its timestep with the new observation."""
    return mark_corrupt(
        state, dataclasses.replace(timestep, obs=timestep_obs(observe(state)))
    )


def _with_options(env: Env, state: Any, options: dict[str, Any]) -> Any:
    unknown = sorted(set(options) - set(PHYSICS))
    if unknown or not isinstance(env, MjxEnv | PixelEnv):
        known = () if body_of(env) is None else PHYSICS
        raise ValueError(
            f"options={options}: {env.spec.name} has the options {list(known)}"
        )
    return env.with_physics(state, **options)
