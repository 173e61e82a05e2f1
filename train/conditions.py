"""Conditions an agent is tested under: what perturbs its eyes, and gravity.

All conditions are played in one program: their strengths are data. Every condition has
the same starts and the same random numbers, so that returns can be compared start by
start.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from core.agent import Agent
from envs import Env, Timestep, VectorEnv, perturb
from envs.mjx_env import MjxEnv
from envs.perturb import Perturbation
from envs.render.pixels import PixelEnv
from train.errors import UserError
from train.evaluation import episode_returns
from train.video import Poses


class Conditions(NamedTuple):
    """Several conditions, each field with a leading axis of them."""

    labels: tuple[str, ...]
    perturbs: tuple[str, ...]
    """The perturbations' short forms."""
    perturbation: Perturbation
    gravity: Float[np.ndarray, " conditions"] | None
    """m/s²; None leaves it as it is."""


def read_conditions(env: Env, perturbs: str, gravities: str) -> Conditions:
    """Every perturbation under every gravity.

    Args:
        perturbs: short forms of `envs.perturb.parse`, with spaces between them; empty
            for none.
        gravities: magnitudes in m/s² likewise; empty for the model's own.

    Raises:
        UserError: one of them is not understood, or this environment has no gravity.
    """
    texts = perturbs.split() or ["none"]
    eyes = [read_perturbation("--perturb", text, env) for text in texts]
    words = gravities.split()
    if not words:
        return Conditions(tuple(texts), tuple(texts), perturb.stack(eyes), None)
    if not isinstance(env, MjxEnv | PixelEnv):
        raise UserError(
            f"--gravity {gravities}: {env.spec.name} has no gravity; allowed: runs of "
            "the MuJoCo environments"
        )
    numbers = [_gravity(word) for word in words]
    pairs = [(i, g) for g in range(len(numbers)) for i in range(len(texts))]
    labels = [
        " ".join([texts[i]] * (texts != ["none"]) + [f"gravity {numbers[g]:g}"])
        for i, g in pairs
    ]
    stacked = perturb.stack([eyes[i] for i, _ in pairs])
    return Conditions(
        tuple(labels),
        tuple(texts[i] for i, _ in pairs),
        stacked,
        np.array([numbers[g] for _, g in pairs], np.float32),
    )


def read_perturbation(flag: str, text: str, env: Env) -> Perturbation:
    """The perturbation of this environment's observations that a flag asks for.

    Raises:
        UserError: it is not understood, or does not fit the observations.
    """
    try:
        return perturb.parse(text, pixels=env.spec.obs_dtype == "uint8")
    except ValueError as error:
        raise UserError(f"{flag} {text}: {error}") from None


def first_pose(state: Any, timestep: Timestep) -> tuple[Poses, Any]:
    """How the first of a batch of bodies stands, and whether its episode ends."""
    return Poses(state.qpos[0], state.scene[0]), timestep.is_last[0]


def make_condition_player(
    env: Env,
    episodes: int,
    conditions: Conditions,
    *,
    random_actions: bool = False,
    poses: bool = False,
) -> Callable[[Agent, PRNGKeyArray], Any]:
    """A function that plays `episodes` episodes under each condition.

    Args:
        random_actions: uniform random actions, the same under each condition, instead
            of the policy's mode.
        poses: keep those of the first condition's first episode; only for environments
            of MuJoCo.

    Returns:
        `(agent, key) ↦ (returns, first)`, where `returns` is `[conditions, episodes]`,
        for one condition without perturbation and gravity those of
        `train.evaluation.make_evaluate` with the same key; and `first`, after each
        decision, what `first_pose` says of that episode, or None.
    """
    count = len(conditions.labels)
    starts = VectorEnv(env, episodes)
    copies = VectorEnv(env, count * episodes)
    per_episode = jax.vmap(
        lambda eye, keys, obs: jax.vmap(eye)(keys, obs), (0, None, 0)
    )

    def fold(x: Array) -> Array:
        """From all copies to one row a condition."""
        return x.reshape(count, episodes, *x.shape[1:])

    def see(timestep: Any, key: PRNGKeyArray) -> Array:
        keys = jax.random.split(jax.random.fold_in(key, 1), episodes)
        return per_episode(conditions.perturbation, keys, fold(timestep.obs))

    def run(agent: Agent, key: PRNGKeyArray) -> Any:
        reset_key, act_key = jax.random.split(key)
        state, timestep = jax.tree.map(
            lambda x: jnp.concatenate([x] * count), starts.reset(reset_key)
        )
        if conditions.gravity is not None:
            assert isinstance(env, MjxEnv | PixelEnv)
            gravity = jnp.repeat(jnp.asarray(conditions.gravity), episodes)
            state = env.with_gravity(state, gravity)
        latent = agent.model.rssm.initial(count, episodes)
        action = jnp.zeros((count, episodes, env.spec.action_dim), jnp.float32)

        def step(carry: Any, key: PRNGKeyArray) -> tuple[Any, Any]:
            state, timestep, latent, action = carry

            def act(latent: Any, obs: Array, last: Array, first: Array) -> Any:
                return agent.act(latent, obs, last, first, key=key, explore=False)

            if random_actions:
                drawn = jax.random.uniform(key, action.shape[1:], minval=-1.0)
                action = jnp.broadcast_to(drawn, action.shape)
            else:
                latent, action = jax.vmap(act)(
                    latent, see(timestep, key), action, fold(timestep.is_first)
                )
            flat = action.reshape(-1, env.spec.action_dim)
            state, timestep = copies.step(state, flat)
            first = first_pose(state, timestep) if poses else None
            seen = timestep.reward, timestep.is_last, first
            return (state, timestep, latent, action), seen

        keys = jax.random.split(act_key, env.spec.episode_decisions)
        carry = (state, timestep, latent, action)
        _, (reward, is_last, first) = jax.lax.scan(step, carry, keys)
        return fold(episode_returns(reward, is_last)), first

    return run


def _gravity(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = float("nan")
    if not 0 <= value < float("inf"):
        raise UserError(
            f"--gravity {word}: not a gravity; allowed: numbers >= 0, in m/s², with "
            "spaces between them"
        )
    return value
