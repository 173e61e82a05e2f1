"""Wrapper for environments of `mujoco_playground`.

    from envs import playground
    env = playground.make("CheetahRun", config={"impl": "jax"})
    envs.register("pg-cheetah", functools.partial(playground.make, "CheetahRun"))

The package is not a dependency: it has about sixty dependencies of its own, and its
control-suite models differ from dm_control's. Install it if you want its robots. Any
object with its `reset`, `step`, `action_size` and `dt` works.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, Num, PyTree

from envs import checks
from envs.adapters import carry
from envs.adapters.inner import InnerEnv, InnerState
from envs.base import EnvSpec, Timestep, select
from envs.checks import forked
from envs.mjx.task import EPISODE_STEPS

_NAMES = ("reset", "step")


class PlaygroundEnv(InnerEnv):
    """An environment of `mujoco_playground`; `done` means a terminal state."""

    def __init__(
        self,
        inner: Any,
        *,
        name: str,
        action_repeat: int = 1,
        episode_steps: int | None = None,
        obs_key: str = "state",
    ):
        """Wrap an environment.

        Args:
            inner: the environment.
            name: for `EnvSpec.name`.
            action_repeat: control steps per decision; must divide the episode.
            episode_steps: control steps per episode; None takes `episode_length` of the
                environment's own configuration, or 1000.
            obs_key: the entry to use if the observation is a dictionary.

        Raises:
            ValueError: an argument is invalid, `inner` returns a wrong shape or type,
                or the observation has no such entry.
        """
        forked.check()
        config = getattr(inner, "_config", {})
        length = int(config.get("episode_length", EPISODE_STEPS))
        self.inner = inner
        self._obs_key = obs_key
        actions = checks.whole("action_size", inner.action_size)
        key = jax.eval_shape(lambda: jax.random.key(0))
        action = jax.ShapeDtypeStruct((actions,), jnp.float32)
        self._types = carry.types_of(
            checks.traced("reset", inner.reset, "(rng)", key),
            lambda state: checks.traced(
                "step", inner.step, "(state, action)", state, action
            ),
            names=_NAMES,
        )
        obs = self._types.obs
        if isinstance(obs, Mapping) and obs_key not in obs:
            raise ValueError(
                f"obs_key={obs_key!r}: {name} observes {sorted(obs)}: choose one"
            )
        shape, dtype = checks.observation("obs", self._obs(self._types))
        checks.scalar("reward", self._types.reward)
        checks.scalar("done", self._types.done)
        self.spec = EnvSpec(
            name=name,
            obs_shape=shape,
            obs_dtype=dtype,
            action_dim=actions,
            action_repeat=action_repeat,
            episode_steps=length if episode_steps is None else episode_steps,
            control_timestep=inner.dt,
        )

    def initial_inner(self, key: Key[Array, ""]) -> PyTree:
        return carry.brought_to(self._types, self.inner.reset(key), names=_NAMES)

    def control_step(
        self, inner: PyTree, action: Float[Array, " action"]
    ) -> tuple[PyTree, Float[Array, ""]]:
        after = self.inner.step(inner, action.astype(jnp.float32))
        after = carry.brought_to(self._types, after, names=_NAMES)
        # After `done` the state stays the same and rewards are 0.
        over = inner.done > 0
        reward = jnp.asarray(after.reward, float)
        return select(over, inner, after), jnp.where(over, 0.0, reward)

    def terminal(self, inner: PyTree) -> Bool[Array, ""]:
        return inner.done > 0

    def advance(
        self, state: InnerState, action: Num[Array, " action"]
    ) -> tuple[InnerState, Timestep]:
        # A state after reset is not terminal, whatever its flag says.
        done = jnp.zeros_like(state.inner.done)
        inner = state.inner.replace(done=done)
        return super().advance(dataclasses.replace(state, inner=inner), action)

    def observe(self, state: InnerState) -> Num[Array, "*obs"]:
        return self._obs(state.inner)

    def reward(self, state: InnerState) -> Float[Array, ""]:
        return jnp.asarray(state.inner.reward, float)

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
        config: overrides of the task's configuration, such as `{"sim_dt": 0.002}`.

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
