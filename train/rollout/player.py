"""Playing whole episodes, apart from training.

There is one player: it plays every episode under each of some conditions, and no
condition is the trivial one. All conditions have the same starts and the same random
numbers, so that returns can be compared start by start. It is one compiled program: the
conditions' strengths are data.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from core.agent import Agent
from core.latent_error import LatentError
from envs import Env, Timestep, VectorEnv
from envs.mjx.env import MjxEnv
from envs.render.pixels import PixelEnv
from train.config.schema import MAX_EVAL_DECISIONS
from train.rollout.conditions import PLAIN, Conditions

Returns = Float[Array, " episodes"]
Acting = Literal["mode", "sample", "random"]
"""The mode of the policy, a sample of it, or uniform random actions."""

# A film is at most so long: its poses are kept until the end of the program.
FILM_DECISIONS = 10_000


class Poses(NamedTuple):
    """What is drawn of an episode, after each decision."""

    qpos: Float[Array, "decisions nq"]
    scene: Float[Array, "decisions nscene"]
    """Where a target is, for instance; see `envs.mjx.task.Task`."""


class Played(NamedTuple):
    """What happened in the episodes, one row for each condition."""

    returns: Float[Array, "conditions episodes"]
    """Sum of the rewards of all control steps, undiscounted."""
    decisions: Int[Array, "conditions episodes"]
    """Length of each episode."""
    cut_off: Bool[Array, "conditions episodes"]
    """The episode had not ended when the player stopped."""
    poses: Poses | None
    """Of the first condition's first episode, where asked for; rows after its end mean
    nothing."""


class _Playing(NamedTuple):
    """What the player carries from one decision to the next."""

    state: Any
    timestep: Timestep
    latent: Any
    action: Float[Array, "conditions episodes action"]
    time: Int[Array, ""]
    returns: Float[Array, " copies"]
    decisions: Int[Array, " copies"]
    ended: Bool[Array, " copies"]
    poses: Poses | None


def make_player(
    env: Env,
    episodes: int,
    conditions: Conditions = PLAIN,
    *,
    acting: Acting = "mode",
    max_decisions: int = MAX_EVAL_DECISIONS,
    poses: bool = False,
) -> Callable[[Agent, PRNGKeyArray], Played]:
    """A function that plays `episodes` episodes under each condition.

    It stops when all episodes have ended, or after `max_decisions` decisions.

    Args:
        acting: how actions are chosen; random ones are the same under each condition.
        max_decisions: the cap for tasks whose time limit is far away, or has no end.
        poses: keep those of the first condition's first episode, at most
            `FILM_DECISIONS`; only for environments of MuJoCo.

    Returns:
        `(agent, key) ↦ Played`. The starts and random numbers depend on the key and
        `episodes` alone: agents, conditions and ways of acting can be compared.
    """
    count = len(conditions.labels)
    starts = VectorEnv(env, episodes)
    copies = VectorEnv(env, count * episodes)
    limit = min(env.spec.episode_decisions, max_decisions)

    def fold(x: Array) -> Array:
        """From all copies to one row a condition."""
        return x.reshape(count, episodes, *x.shape[1:])

    def see(timestep: Timestep, key: PRNGKeyArray) -> Array:
        if conditions.perturbation is None:
            return fold(timestep.obs)
        keys = jax.random.split(jax.random.fold_in(key, 1), episodes)
        perturb = lambda eye, obs: jax.vmap(eye)(keys, obs)
        return jax.vmap(perturb)(conditions.perturbation, fold(timestep.obs))

    def choose(agent: Agent, now: _Playing, key: PRNGKeyArray) -> tuple[Any, Array]:
        """The latent states and actions after the current observations."""
        if acting == "random":
            drawn = jax.random.uniform(key, now.action.shape[1:], minval=-1.0)
            return now.latent, jnp.broadcast_to(drawn, now.action.shape)

        def act(error: LatentError | None, *seen: Any) -> Any:
            observe_key, action_key = jax.random.split(key)
            latent, _ = agent.observe_with_error(*seen, key=observe_key, error=error)
            explore = acting == "sample"
            return latent, agent.choose(latent, key=action_key, explore=explore)

        seen, first = see(now.timestep, key), fold(now.timestep.is_first)
        return jax.vmap(act)(conditions.latent, now.latent, seen, now.action, first)

    def start(agent: Agent, key: PRNGKeyArray) -> _Playing:
        state, timestep = jax.tree.map(
            lambda x: jnp.concatenate([x] * count), starts.reset(key)
        )
        if conditions.physics:
            assert isinstance(env, MjxEnv | PixelEnv)
            repeat = lambda x: jnp.repeat(jnp.asarray(x), episodes)
            physics = {name: repeat(x) for name, x in conditions.physics.items()}
            state = env.with_physics(state, **physics)
        film = None
        if poses:
            empty = lambda x: jnp.zeros((min(limit, FILM_DECISIONS), *x.shape), x.dtype)
            film = jax.tree.map(empty, first_pose(state))
        zero = jnp.zeros(count * episodes)
        return _Playing(
            state,
            timestep,
            agent.model.rssm.initial(count, episodes),
            jnp.zeros((count, episodes, env.spec.action_dim), jnp.float32),
            jnp.int32(0),
            zero,
            zero.astype(jnp.int32),
            # An episode whose first row is not finite has ended, with nothing earned.
            timestep.is_last,
            film,
        )

    def play(agent: Agent, key: PRNGKeyArray) -> Played:
        reset_key, act_key = jax.random.split(key)

        def going(now: _Playing) -> Bool[Array, ""]:
            return (now.time < limit) & ~jnp.all(now.ended)

        def step(now: _Playing) -> _Playing:
            key = jax.random.fold_in(act_key, now.time)
            latent, action = choose(agent, now, key)
            flat = action.reshape(-1, env.spec.action_dim)
            state, timestep = copies.step(now.state, flat)
            film = now.poses
            if film is not None:
                put = lambda x, y: x.at[now.time].set(y, mode="drop")
                film = jax.tree.map(put, film, first_pose(state))
            return _Playing(
                state,
                timestep,
                latent,
                action,
                now.time + 1,
                now.returns + jnp.where(now.ended, 0.0, timestep.reward),
                now.decisions + ~now.ended,
                now.ended | timestep.is_last,
                film,
            )

        end = jax.lax.while_loop(going, step, start(agent, reset_key))
        return Played(
            fold(end.returns), fold(end.decisions), fold(~end.ended), end.poses
        )

    return play


def first_pose(state: Any) -> Poses:
    """The pose of the first environment of a batch."""
    return Poses(state.qpos[0], state.scene[0])


def make_evaluate(
    env: VectorEnv, *, acting: Acting = "mode", max_decisions: int = MAX_EVAL_DECISIONS
) -> Callable[[Agent, PRNGKeyArray], Returns]:
    """A function that plays one episode in every environment of `env`.

    Args:
        acting, max_decisions: see `make_player`, which also says which episodes were
            cut off; their returns are those up to then.

    Returns:
        `(agent, key) ↦ [episodes]` undiscounted returns, summed over control steps.
        Environments start afresh at every call.
    """
    play = make_player(
        env.env, env.num_envs, acting=acting, max_decisions=max_decisions
    )
    return lambda agent, key: play(agent, key).returns[0]
