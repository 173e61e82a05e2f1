"""A batch of copies of one environment."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, Num

from envs import checks
from envs.base import Env, State, Timestep, mark_corrupt, select


class VectorEnv[S: State]:
    """`num_envs` copies of `env` over a leading batch axis.

    The result is that of `jax.vmap(env.step)`, which computes a reset of every copy in
    every step. Here one `lax.cond` computes resets only in steps in which a copy begins
    an episode: once per episode if all episodes have the same length.
    """

    def __init__(self, env: Env[S], num_envs: int):
        """Copies of one environment.

        Args:
            env: the environment to copy.
            num_envs: how many copies, at least 1.

        Raises:
            ValueError: `num_envs` is less than 1.
        """
        self.env = env
        self.num_envs = checks.whole("num_envs", num_envs)
        self.spec = env.spec
        # A simulator takes seconds to trace. Compiled by themselves, the methods of one
        # environment are traced once for all programs and batches they are part of.
        plain = env.unrendered
        self._reset, self._restart, self._advance = (
            jax.jit(method) for method in (plain.reset, plain.restart, plain.advance)
        )
        self._observe = None if plain is env else jax.jit(env.observe)

    def reset(self, key: Key[Array, ""]) -> tuple[S, Timestep]:
        """Start every copy, each with its own key derived from `key`."""
        keys = jax.random.split(key, self.num_envs)
        return self._seen(*jax.vmap(self._reset)(keys))

    def step(
        self, state: S, action: Num[Array, "num_envs action"]
    ) -> tuple[S, Timestep]:
        """One decision of every copy; see `Env.step`.

        Timesteps with NaN or Inf of any environment are marked as corrupt here, see
        `envs.base.mark_corrupt`.
        """
        advanced = jax.vmap(self._advance)(state, action)

        def with_restarts():
            return select(state.needs_reset, jax.vmap(self._restart)(state), advanced)

        return self._seen(
            *jax.lax.cond(jnp.any(state.needs_reset), with_restarts, lambda: advanced)
        )

    def _seen(self, state: S, timestep: Timestep) -> tuple[S, Timestep]:
        # A renderer's program is large: it is called here, once for both branches.
        if self._observe is not None:
            obs = jax.vmap(self._observe)(state)
            timestep = dataclasses.replace(timestep, obs=obs)
        return mark_corrupt(state, timestep)
