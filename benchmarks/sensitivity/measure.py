"""Sensitivities and exact Jacobian norms of one agent along its own trajectories."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from core.agent import Agent
from core.smoothness import Inputs, jacobian_norms, kl_sensitivity
from core.states import State
from envs import Env, VectorEnv

MAGNITUDES = (0.001, 0.003, 0.01, 0.03, 0.1)
"""Perturbation norm / mean input norm: .1 % to 10 %."""


class Measured(NamedTuple):
    """Means over states, for `posterior` and `prior`."""

    kl: dict[str, Float[Array, " magnitudes"]]
    """KL divergence / perturbation norm, in nats, at each of `MAGNITUDES`."""
    jacobian: dict[str, Float[Array, ""]]
    """Exact ‖J‖_F² of one categorical."""


class Visited(NamedTuple):
    """States that an agent visited, time first."""

    latent: State
    """h and z after the observation, with one axis of states."""
    embed: Float[Array, "n embed"]
    action: Float[Array, "n action"]
    """What the agent did there."""

    @property
    def inputs(self) -> Inputs:
        """Of posterior and prior."""
        return Inputs(self.latent.deter, self.embed)


def make_visit(
    env: Env, *, copies: int, decisions: int
) -> Callable[[Agent, PRNGKeyArray], Visited]:
    """A function that lets an agent act, its actions sampled from the policy.

    Args:
        copies: number of environments in the batch.
        decisions: per environment.

    Returns:
        `(agent, key) ↦ Visited`, `copies * decisions` states.
    """
    batch = VectorEnv(env, copies)

    def visit(agent: Agent, key: PRNGKeyArray) -> Visited:
        reset_key, act_key = jax.random.split(key)
        state, timestep = batch.reset(reset_key)
        latent = agent.model.rssm.initial(copies)
        action = jnp.zeros((copies, env.spec.action_dim))

        def step(carry: Any, key: PRNGKeyArray) -> tuple[Any, Visited]:
            state, timestep, latent, action = carry
            embed = agent.model.encoder(timestep.obs)
            latent, action = agent.act(
                latent, timestep.obs, action, timestep.is_first, key=key
            )
            seen = Visited(latent, embed, action)
            return (*batch.step(state, action), latent, action), seen

        keys = jax.random.split(act_key, decisions)
        _, seen = jax.lax.scan(step, (state, timestep, latent, action), keys)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), seen)

    return visit


def make_measure(
    env: Env, *, copies: int, decisions: int
) -> Callable[[Agent, PRNGKeyArray], Measured]:
    """A function that measures an agent at the states it visits: `(agent, key) ↦ …`.

    The arguments are those of `make_visit`.
    """
    visit = make_visit(env, copies=copies, decisions=decisions)

    def measure(agent: Agent, key: PRNGKeyArray) -> Measured:
        visit_key, perturb_key = jax.random.split(key)
        inputs, rssm = visit(agent, visit_key).inputs, agent.model.rssm

        def at(magnitude: Array) -> dict[str, Array]:
            found = kl_sensitivity(rssm, inputs, magnitude, key=perturb_key)
            return jax.tree.map(jnp.mean, found)

        kl = jax.lax.map(at, jnp.asarray(MAGNITUDES))
        return Measured(kl, jax.tree.map(jnp.mean, jacobian_norms(rssm, inputs)))

    return measure
