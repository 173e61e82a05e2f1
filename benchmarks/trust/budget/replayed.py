"""Latent states, rewards and posteriors from the replay buffer that a run has saved."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from core.agent import Agent
from core.loops import block_gru
from core.states import ObserveInputs
from core.transition import Transition
from envs import Env, VectorEnv
from train.checkpoint.checkpointer import Checkpointer
from train.config import Config
from train.config.schema import replay_bytes
from train.program import replay
from train.program.state import init_run

LARGEST_BYTES = 2**30
"""Replay buffers above this, such as those of long runs from pixels, are not read."""


class NotMeasured(Exception):
    """Why there is no answer: half a sentence."""


class SavedReplay(NamedTuple):
    """The part of a `RunState` that is read."""

    replay: replay.Replay


class Rows(NamedTuple):
    """Replayed sequences in the model's latent states; time first.

    Attributes:
        deter: h_t.
        posterior: logits of q(z_t|h_t, e_t).
        reward: received on arriving.
        valid: the step has a predecessor in its episode.
    """

    deter: Float[Array, "time sequences deter"]
    posterior: Float[Array, "time sequences K P"]
    reward: Float[Array, "time sequences"]
    valid: Bool[Array, "time sequences"]


def load_replay(run_dir: Path, config: Config, env: Env, agent: int) -> replay.Replay:
    """The newest replay buffer of one agent of a run.

    Raises:
        NotMeasured: the run holds no checkpoint, but agents alone, or it is too large.
    """
    store = Checkpointer(run_dir)
    if not store.steps():
        raise NotMeasured("the run holds agents alone, and no checkpoint with a replay")
    shape = env.spec.obs_shape
    size = replay_bytes(config, obs_shape=shape, action_dim=env.spec.action_dim)
    if size > LARGEST_BYTES:
        raise NotMeasured(f"the replay of {size / 2**30:.1f} GiB is too large to read")
    vector = VectorEnv(env, config.num_envs)
    init, key = lambda key: init_run(config, vector, key).replay, jax.random.key(0)
    if config.agents > 1:
        init, key = jax.vmap(init), jax.random.split(key, config.agents)
    restored = store.restore(SavedReplay(jax.eval_shape(init, key)), partial=True)
    assert restored is not None
    found = restored.tree.replay
    return jax.tree.map(lambda x: x[agent], found) if config.agents > 1 else found


def sequences(
    buffer: replay.Replay, *, length: int, most: int, seed: int
) -> Transition:
    """Up to `most` sequences of `length` + 1 rows without overlap, in random order.

    Sequences with a corrupt step are left out.
    """
    capacity, envs = buffer.rows.reward.shape
    filled, position = int(buffer.filled), int(buffer.position)
    count = filled // (length + 1)
    begin = position - filled + (length + 1) * np.arange(count)
    at = (begin[:, None] + np.arange(length + 1)) % capacity
    at, env = np.repeat(at, envs, axis=0), np.tile(np.arange(envs), count)
    assert buffer.rows.is_corrupt is not None
    sound = ~np.asarray(buffer.rows.is_corrupt)[at, env[:, None]].any(axis=1)
    chosen = np.random.default_rng(seed).permutation(np.flatnonzero(sound))[:most]
    pick = lambda x: np.asarray(x)[at[chosen].T, env[chosen][None]]
    return jax.tree.map(pick, buffer.rows)


def observed(agent: Agent, rows: Transition, key: PRNGKeyArray) -> Rows:
    """Filter sequences; the first row's stored latent state is where they start.

    Where none is stored they start from zeros, and no first row is valid.
    """
    rssm = agent.model.rssm
    later: Any = jax.tree.map(lambda x: jnp.asarray(x[1:]), rows)
    initial, first = rssm.initial(rows.reward.shape[1]), later.is_first
    if rows.deter is not None and rows.stoch is not None:
        latent = jnp.asarray(rows.deter[0]), jnp.asarray(rows.stoch[0])
        initial = replay.unpack_latent(*latent, rssm.latents, jnp.dtype(jnp.float32))
    else:
        first = first.at[0].set(True)
    embeds = agent.model.encoder(later.obs)
    inputs = ObserveInputs(embeds, later.action, first)
    _, found = block_gru.observe(rssm, initial, inputs, key=key)
    return Rows(found.states.deter, found.posterior, later.reward, ~first)
