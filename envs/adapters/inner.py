"""Base class of environments that wrap a simulator: episodes and resets."""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Num, PyTree

from envs.base import Env, State, Timestep, select


class InnerState(State):
    """The state of a wrapped simulator, with the fields of `State`.

    Attributes:
        inner: the simulator's own state, any pytree of arrays.
    """

    inner: Any
    key: Key[Array, "*batch"]
    step_count: Int[Array, "*batch"]
    needs_reset: Bool[Array, "*batch"]
    corrupt_count: Int[Array, "*batch"]


class InnerEnv(Env[InnerState]):
    """Episodes, resets and checks for NaN around a simulator given by subclasses."""

    @abc.abstractmethod
    def initial_inner(self, key: Key[Array, ""]) -> PyTree:
        """The simulator's state at the start of an episode."""

    @abc.abstractmethod
    def control_step(
        self, inner: PyTree, action: Float[Array, " action"]
    ) -> tuple[PyTree, Float[Array, ""]]:
        """The state after one control step, and the step's reward."""

    def terminal(self, inner: PyTree) -> Bool[Array, ""] | None:
        """Whether the state is terminal; None if episodes end by time only."""
        return None

    def reset(self, key: Key[Array, ""]) -> tuple[InnerState, Timestep]:
        return self._begin(key, jnp.zeros((), jnp.int32))

    def restart(self, state: InnerState) -> tuple[InnerState, Timestep]:
        return self._begin(state.key, state.corrupt_count)

    def advance(
        self, state: InnerState, action: Num[Array, " action"]
    ) -> tuple[InnerState, Timestep]:
        clipped = self._clipped(action)
        end, rewards = jax.lax.scan(
            lambda inner, _: self.control_step(inner, clipped),
            state.inner,
            length=self.spec.action_repeat,
        )
        reward = jnp.sum(rewards)
        # A corrupt decision keeps the state before it, so the state stays finite.
        corrupt = ~_is_sound(end, since=state.inner) | ~jnp.isfinite(reward)
        inner = select(corrupt, state.inner, end)
        return self._end_decision(
            dataclasses.replace(state, inner=inner),
            reward=reward,
            corrupt=corrupt,
            terminal=self.terminal(inner),
        )

    def _begin(
        self, key: Key[Array, ""], corrupt_count: Int[Array, ""]
    ) -> tuple[InnerState, Timestep]:
        next_key, draw_key = jax.random.split(key)
        state = InnerState(
            inner=self.initial_inner(draw_key),
            key=next_key,
            step_count=jnp.zeros((), jnp.int32),
            needs_reset=jnp.asarray(False),
            corrupt_count=corrupt_count,
        )
        return self._begin_episode(state, corrupt=~_is_sound(state.inner))


def _is_sound(inner: PyTree, since: PyTree | None = None) -> Bool[Array, ""]:
    """Whether a simulator's state has no NaN, and no Inf that was not in `since`.

    Inf in a start state is valid: simulators use it for "never", as in
    `"last_kick_step": -jnp.inf`.
    """

    def sound(leaf: Array, old: Array) -> Bool[Array, ""]:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return jnp.asarray(True)
        grown = jnp.isinf(leaf) & jnp.isfinite(old)
        return ~jnp.any(jnp.isnan(leaf) | grown)

    since = inner if since is None else since
    found = jax.tree.leaves(jax.tree.map(sound, inner, since))
    return jnp.all(jnp.stack([jnp.asarray(True), *found]))
