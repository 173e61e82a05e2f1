"""An environment from a few JAX functions: any simulator that JAX can trace."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, Num, PyTree

from envs.base import EnvSpec, Timestep, check_action_repeat, select
from envs.inner import InnerEnv, InnerState
from envs.task import EPISODE_STEPS


@dataclasses.dataclass(frozen=True, eq=False)
class FunctionEnv(InnerEnv):
    """An environment whose parts are functions; see `from_jax`."""

    spec: EnvSpec
    initial: Callable[[Key[Array, ""]], PyTree]
    move: Callable[[PyTree, Array], PyTree]
    see: Callable[[PyTree], Array]
    value: Callable[[PyTree], Array]
    terminal: Callable[[PyTree], Array] | None

    def initial_inner(self, key: Key[Array, ""]) -> PyTree:
        return self.initial(key)

    def advance(
        self, state: InnerState, action: Num[Array, " action"]
    ) -> tuple[InnerState, Timestep]:
        clipped = self._clipped(action)

        def control_step(inner: PyTree, _: None) -> tuple[PyTree, Array]:
            inner = self.move(inner, clipped)
            return inner, self.value(inner)

        end, rewards = jax.lax.scan(
            control_step, state.inner, length=self.spec.action_repeat
        )
        reward = jnp.sum(rewards)
        # A corrupt decision stays where it began, so a state holds finite numbers only.
        corrupt = ~(_finite(end) & jnp.isfinite(reward))
        inner = select(corrupt, state.inner, end)
        terminal = None if self.terminal is None else self.terminal(inner)
        return self._end_decision(
            dataclasses.replace(state, inner=inner),
            reward=reward,
            corrupt=corrupt,
            terminal=terminal,
        )

    def observe(self, state: InnerState) -> Num[Array, "*obs"]:
        return self.see(state.inner)

    def reward(self, state: InnerState) -> Float[Array, ""]:
        return self.value(state.inner)


def from_jax(
    *,
    initial: Callable[[Key[Array, ""]], PyTree],
    step: Callable[[PyTree, Array], PyTree],
    observe: Callable[[PyTree], Array],
    reward: Callable[[PyTree], Array],
    action_dim: int,
    terminal: Callable[[PyTree], Array] | None = None,
    name: str = "custom",
    action_repeat: int = 1,
    episode_steps: int = EPISODE_STEPS,
    control_timestep: float = 1.0,
) -> FunctionEnv:
    """An environment from a simulator of your own, in functions that JAX can trace.

    Args:
        initial: `(key) -> state`, draws the state an episode starts in: any pytree of
            arrays.
        step: `(state, action) -> state`, one control step; `action` is `(action_dim,)`
            in [-1, 1]. The state keeps its structure, shapes and dtypes.
        observe: `(state) -> (obs,)`, a vector of floats, or an image `(height, width,
            3)` of uint8 with multiples of 16.
        reward: `(state) -> ()`, of a control step that ended in that state.
        action_dim: number of entries of an action.
        terminal: `(state) -> ()`, a boolean: is the episode over for good? It is asked
            after each decision. None means that episodes end by time alone.
        name: for `EnvSpec.name`.
        action_repeat: control steps per decision; must divide `episode_steps`.
        episode_steps: control steps per episode.
        control_timestep: seconds per control step.

    Raises:
        ValueError: an argument does not fit, or a function returns something else than
            above.
    """
    check_action_repeat(action_repeat, episode_steps)
    if action_dim < 1:
        raise ValueError(f"action_dim={action_dim} must be at least 1")
    key = jax.eval_shape(lambda: jax.random.key(0))
    action = jax.eval_shape(lambda: jnp.zeros(action_dim))
    state = jax.eval_shape(initial, key)
    after = jax.eval_shape(step, state, action)
    if _types(after) != _types(state):
        raise ValueError(
            f"step returns {_types(after)}, but must return a state like initial's, "
            f"{_types(state)}"
        )
    seen = jax.eval_shape(observe, state)
    vector = seen.ndim == 1 and jnp.issubdtype(seen.dtype, jnp.floating)
    if not vector and not (seen.ndim == 3 and seen.dtype == jnp.uint8):
        raise ValueError(
            f"observe returns {_types(seen)}, but must return a vector of floats, or "
            "an image (height, width, 3) of uint8"
        )
    for what, function in {"reward": reward, "terminal": terminal}.items():
        if function is None:
            continue
        kind = jnp.bool_ if what == "terminal" else jnp.floating
        found = jax.eval_shape(function, state)
        if found.shape or not jnp.issubdtype(found.dtype, kind):
            raise ValueError(
                f"{what} returns {_types(found)}, but must return a scalar "
                + ("boolean" if what == "terminal" else "float")
            )
    spec = EnvSpec(
        name=name,
        obs_shape=seen.shape,
        obs_dtype="float32" if vector else "uint8",
        action_dim=action_dim,
        action_repeat=action_repeat,
        episode_steps=episode_steps,
        control_timestep=control_timestep,
    )
    return FunctionEnv(spec, initial, step, observe, reward, terminal)


def _types(tree: PyTree) -> Any:
    return jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", tree)


def _finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether all floats in a pytree are finite."""
    floats = [
        jnp.all(jnp.isfinite(x))
        for x in jax.tree.leaves(tree)
        if jnp.issubdtype(x.dtype, jnp.floating)
    ]
    return jnp.all(jnp.array([True, *floats]))
