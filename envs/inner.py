"""What environments around a simulator of another's making have in common."""

import abc

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key, PyTree

from envs.base import Env, State, Timestep, first_timestep


class InnerState(State):
    """The simulator's own state, and what every state holds.

    Attributes:
        inner: the simulator's own state, any pytree of arrays.
    """

    inner: PyTree
    key: Key[Array, "*batch"]
    step_count: Int[Array, "*batch"]
    needs_reset: Bool[Array, "*batch"]
    corrupt_count: Int[Array, "*batch"]


class InnerEnv(Env[InnerState]):
    """An environment whose episodes begin as its simulator's do."""

    @abc.abstractmethod
    def initial_inner(self, key: Key[Array, ""]) -> PyTree:
        """The simulator's own state at the beginning of an episode."""

    def reset(self, key: Key[Array, ""]) -> tuple[InnerState, Timestep]:
        return self._begin(key, jnp.zeros((), jnp.int32))

    def restart(self, state: InnerState) -> tuple[InnerState, Timestep]:
        return self._begin(state.key, state.corrupt_count)

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
        return state, first_timestep(self.observe(state))
