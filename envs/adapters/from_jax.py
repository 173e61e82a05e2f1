"""`from_jax`: an environment from a few functions that JAX can trace."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, Num, PyTree

from envs import checks
from envs.adapters import carry
from envs.adapters.inner import InnerEnv, InnerState
from envs.base import EnvSpec
from envs.checks import forked
from envs.mjx.task import EPISODE_STEPS

_NAMES = ("initial", "step")


@dataclasses.dataclass(frozen=True, eq=False)
class FunctionEnv(InnerEnv):
    """An environment whose parts are functions; see `from_jax`.

    Attributes:
        types: shapes and dtypes of a state, see `envs.adapters.carry`.
    """

    spec: EnvSpec
    types: PyTree
    initial: Callable[[Key[Array, ""]], PyTree]
    move: Callable[[PyTree, Array], PyTree]
    see: Callable[[PyTree], Any]
    value: Callable[[PyTree], Any]
    ended: Callable[[PyTree], Any] | None

    def initial_inner(self, key: Key[Array, ""]) -> PyTree:
        return carry.brought_to(self.types, self.initial(key), names=_NAMES)

    def control_step(
        self, inner: PyTree, action: Float[Array, " action"]
    ) -> tuple[PyTree, Float[Array, ""]]:
        after = carry.brought_to(self.types, self.move(inner, action), names=_NAMES)
        return after, jnp.asarray(self.value(after), float)

    def terminal(self, inner: PyTree) -> Bool[Array, ""] | None:
        return None if self.ended is None else jnp.asarray(self.ended(inner))

    def observe(self, state: InnerState) -> Num[Array, "*obs"]:
        return jnp.asarray(self.see(state.inner))

    def reward(self, state: InnerState) -> Float[Array, ""]:
        return jnp.asarray(self.value(state.inner), float)


def from_jax(
    *,
    initial: Callable[[Key[Array, ""]], PyTree],
    step: Callable[[PyTree, Array], PyTree],
    observe: Callable[[PyTree], Any],
    reward: Callable[[PyTree], Any],
    action_dim: int,
    terminal: Callable[[PyTree], Any] | None = None,
    name: str = "custom",
    action_repeat: int = 1,
    episode_steps: int = EPISODE_STEPS,
    control_timestep: float = 1.0,
) -> FunctionEnv:
    """An environment from the functions of a simulator, which JAX can trace.

    Args:
        initial: `(key) -> state`, draws the state an episode starts in: any pytree of
            arrays and numbers. It may hold Inf for "never", but no NaN.
        step: `(state, action) -> state`, one control step; `action` is `(action_dim,)`
            in [-1, 1]. The state must keep its structure and shapes; it is cast to the
            dtypes of the first state.
        observe: `(state) -> (obs,)`, a vector of floats, or an image `(height, width,
            3)` of uint8, height and width multiples of 16.
        reward: `(state) -> ()`, the reward of a control step that leads to this state.
        action_dim: number of entries of an action.
        terminal: `(state) -> ()`, a boolean: whether the state is terminal, evaluated
            after each decision. None means that episodes end by time only.
        name: for `EnvSpec.name`.
        action_repeat: control steps per decision; must divide `episode_steps`.
        episode_steps: control steps per episode, at most 2³¹ - 1.
        control_timestep: seconds per control step.

    Raises:
        ValueError: an argument is invalid, or a function returns a wrong shape or
            type. The message names the argument and the remedy.
    """
    forked.check()
    actions = checks.whole("action_dim", action_dim)
    key = jax.eval_shape(lambda: jax.random.key(0))
    action = jax.ShapeDtypeStruct((actions,), jnp.zeros(()).dtype)
    types = carry.types_of(
        checks.traced("initial", initial, "(key)", key),
        lambda state: checks.traced("step", step, "(state, action)", state, action),
        names=_NAMES,
    )
    seen = checks.traced("observe", observe, "(state)", types)
    shape, dtype = checks.observation("observe", seen)
    checks.scalar("reward", checks.traced("reward", reward, "(state)", types))
    if terminal is not None:
        checks.boolean(
            "terminal", checks.traced("terminal", terminal, "(state)", types)
        )
    spec = EnvSpec(
        name=name,
        obs_shape=shape,
        obs_dtype=dtype,
        action_dim=actions,
        action_repeat=action_repeat,
        episode_steps=episode_steps,
        control_timestep=control_timestep,
    )
    return FunctionEnv(spec, types, initial, step, observe, reward, terminal)
