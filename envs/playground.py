"""Environments of `mujoco_playground` behind this project's interface.

    from envs import playground
    env = playground.make("CheetahRun", config={"impl": "jax"})
    envs.register("pg-cheetah", functools.partial(playground.make, "CheetahRun"))

The package is not a dependency: it brings some sixty others, and its control-suite
models are not those of dm_control. Install it beside this project where its robots are
wanted. Any object with its `reset`, `step`, `action_size` and `dt` will do.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Num, PyTree

from envs.base import EnvSpec, Timestep, check_action_repeat, select
from envs.inner import InnerEnv, InnerState


class PlaygroundEnv(InnerEnv):
    """An environment of `mujoco_playground`, its `done` as the end for good."""

    def __init__(
        self,
        inner: Any,
        *,
        name: str,
        action_repeat: int = 1,
        episode_steps: int | None = None,
        obs_key: str = "state",
    ):
        """Wraps an environment.

        Args:
            inner: the environment.
            name: for `EnvSpec.name`.
            action_repeat: control steps per decision; must divide the episode.
            episode_steps: control steps per episode; None takes `episode_length` of the
                environment's own configuration, or 1000.
            obs_key: which entry to observe, where the observation is a dictionary.

        Raises:
            ValueError: `action_repeat` does not divide the episode, or the observation
                is no vector or has no such entry.
        """
        if episode_steps is None:
            config = getattr(inner, "_config", {})
            episode_steps = int(config.get("episode_length", 1000))
        check_action_repeat(action_repeat, episode_steps)
        self.inner = inner
        self._obs_key = obs_key
        state = jax.eval_shape(inner.reset, jax.eval_shape(lambda: jax.random.key(0)))
        if isinstance(state.obs, Mapping) and obs_key not in state.obs:
            raise ValueError(
                f"obs_key={obs_key!r}: {name} observes {sorted(state.obs)}: choose one"
            )
        obs = self._obs(state)
        if len(obs.shape) != 1:
            raise ValueError(
                f"{name} observes an array of shape {obs.shape}: only vectors can be "
                "taken here"
            )
        self.spec = EnvSpec(
            name=name,
            obs_shape=obs.shape,
            action_dim=int(inner.action_size),
            action_repeat=action_repeat,
            episode_steps=episode_steps,
            control_timestep=float(inner.dt),
        )

    def initial_inner(self, key: Key[Array, ""]) -> PyTree:
        return jax.tree.map(_strict, self.inner.reset(key))

    def advance(
        self, state: InnerState, action: Num[Array, " action"]
    ) -> tuple[InnerState, Timestep]:
        clipped = self._clipped(action).astype(jnp.float32)

        def control_step(inner: PyTree, _):
            after = _like(inner, self.inner.step(inner, clipped))
            # An episode that is over stays where it ended, and earns no more.
            over = inner.done > 0
            return select(over, inner, after), jnp.where(over, 0.0, after.reward)

        # A state that was reset to is not over, whatever its flag says.
        start = state.inner.replace(done=jnp.zeros_like(state.inner.done))
        end, rewards = jax.lax.scan(control_step, start, length=self.spec.action_repeat)
        reward = jnp.sum(rewards)
        corrupt = ~(jnp.all(jnp.isfinite(self._obs(end))) & jnp.isfinite(reward))
        state = dataclasses.replace(state, inner=select(corrupt, state.inner, end))
        return self._end_decision(
            state, reward=reward, corrupt=corrupt, terminal=end.done > 0
        )

    def observe(self, state: InnerState) -> Float[Array, "*obs"]:
        return self._obs(state.inner)

    def reward(self, state: InnerState) -> Float[Array, ""]:
        return state.inner.reward

    def _obs(self, inner: Any) -> Any:
        return inner.obs[self._obs_key] if isinstance(inner.obs, Mapping) else inner.obs


def make(
    task: str,
    *,
    name: str | None = None,
    action_repeat: int = 1,
    config: dict[str, Any] | None = None,
) -> PlaygroundEnv:
    """A task of `mujoco_playground`.

    Args:
        task: its name there, such as "CheetahRun" or "Go1JoystickFlatTerrain".
        name: for `EnvSpec.name`; None means `playground-` and the task.
        action_repeat: control steps per decision; must divide the episode.
        config: changes to the task's own configuration, `{"sim_dt": 0.002}`.

    Raises:
        ImportError: the package is not installed.
        ValueError: there is no such task, or `action_repeat` does not fit.
    """
    try:
        registry = importlib.import_module("mujoco_playground").registry
    except ImportError as error:
        raise ImportError(
            "envs.playground needs mujoco_playground, which is not installed: "
            "pip install playground"
        ) from error
    if task not in registry.ALL_ENVS:
        raise ValueError(f"task={task!r} is unknown: {sorted(registry.ALL_ENVS)}")
    inner = registry.load(task, config_overrides=config)
    return PlaygroundEnv(
        inner, name=name or f"playground-{task}", action_repeat=action_repeat
    )


def _like(old: PyTree, new: PyTree) -> PyTree:
    """`new` with the dtypes of `old`: some environments return others than they got."""

    def cast(a: Array, b: Any) -> Array:
        return b if _is_key(a) else jnp.asarray(b, a.dtype)

    return jax.tree.map(cast, old, new)


def _strict(x: Array) -> Array:
    """Without JAX's weak type, which would make the second step compile anew."""
    return x if _is_key(x) else jnp.asarray(x, x.dtype)


def _is_key(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
