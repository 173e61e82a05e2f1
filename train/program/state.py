"""Everything a run carries from one chunk to the next, as one pytree."""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from core.agent import Agent
from core.behavior.returns import ReturnScale
from core.networks.heads import TwoHotHead
from core.rssm import State
from core.transition import Transition
from envs import Timestep, VectorEnv
from train.config import Config
from train.program import replay
from train.program.latent import latents
from train.program.optimizer import make_optimizer


class Learner(NamedTuple):
    """What the updates change.

    `skipped` counts updates left out because a loss or gradient was not finite, and
    `skipped_in_row` how many of the latest were.
    """

    agent: Agent
    slow_value: TwoHotHead
    optimizer: optax.OptState
    return_scale: ReturnScale
    updates: Int[Array, ""]
    skipped: Int[Array, ""]
    skipped_in_row: Int[Array, ""]


class Collector(NamedTuple):
    """What acting changes: environments, latent states, and running episodes."""

    env_state: PyTree
    timestep: Timestep
    latent: State
    last_action: Float[Array, "envs action"]
    episode_return: Float[Array, " envs"]
    decisions: Int[Array, ""]


class RunState(NamedTuple):
    """A run's state. On a CPU, resuming from it is bitwise the uninterrupted run."""

    learner: Learner
    collector: Collector
    replay: replay.Replay
    key: PRNGKeyArray
    sweep: dict[str, Float[Array, ""]] | None = None
    """The agent's own values of swept flags (`--sweep`), by flag."""


def compute_dtype(config: Config, platform: str) -> jnp.dtype:
    """Type the networks compute in; their parameters are always float32."""
    if config.precision == "auto":
        return jnp.dtype("float32" if platform == "cpu" else "bfloat16")
    return jnp.dtype(config.precision)


def init_agent(config: Config, env: VectorEnv, key: PRNGKeyArray) -> Agent:
    """An untrained agent of the configured size for this environment."""
    shape = env.spec.obs_shape
    return Agent(
        # Images by their shape, vectors by their length.
        shape if env.spec.is_image else shape[0],
        env.spec.action_dim,
        key=key,
        size=config.model,
        obs_entries=tuple(size for _, size in env.spec.obs_entries),
        latents=latents(config),
    )


def init_learner(config: Config, env: VectorEnv, key: PRNGKeyArray) -> Learner:
    """An untrained agent with its optimizer."""
    agent = init_agent(config, env, key)
    zero = jnp.zeros((), jnp.int32)
    return Learner(
        agent,
        # A copy: the run's state is donated, and one buffer cannot be given twice.
        jax.tree.map(jnp.copy, agent.value),
        make_optimizer(config.optimizer).init(cast(Any, agent)),
        ReturnScale.initial(),
        zero,
        zero,
        zero,
    )


def init_run(config: Config, env: VectorEnv, key: PRNGKeyArray) -> RunState:
    """The state before the first decision."""
    agent_key, env_key, run_key = jax.random.split(key, 3)
    learner = init_learner(config, env, agent_key)
    env_state, timestep = env.reset(env_key)
    batch = env.num_envs
    collector = Collector(
        env_state,
        timestep,
        learner.agent.model.rssm.initial(batch),
        jnp.zeros((batch, env.spec.action_dim), jnp.float32),
        jnp.zeros(batch, jnp.float32),
        jnp.zeros((), jnp.int32),
    )
    rows = max(config.replay_capacity // batch, 1)
    empty = replay.init(rows, latest_transition(config, collector))
    return RunState(learner, collector, empty, run_key)


def latest_transition(config: Config, collector: Collector) -> Transition:
    """The latest step as the replay buffer stores it.

    The one copy between two types: an environment knows neither the action that led to
    a `Timestep` nor a latent state, and `core` does not import `envs`.
    """
    timestep = collector.timestep
    latent = (None, None)
    if config.replay_context:
        latent = replay.pack_latent(collector.latent, latents(config))
    return Transition(
        timestep.obs,
        collector.last_action,
        timestep.reward,
        timestep.is_first,
        timestep.is_last,
        timestep.is_terminal,
        timestep.is_corrupt,
        *latent,
    )
