"""Replay on the device: a ring of rows, time first, all environments in lockstep.

Why not flashbax: training starts each sequence from a stored latent state and writes
the new latents back after every update, which needs the sampled positions; and rows of
a corrupt simulation must never be drawn.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from core.rssm import State
from core.world_model import Sequence

# Draws tried for a window without corrupt rows before the batch element is repeated.
CANDIDATES = 4


class Row(NamedTuple):
    """One row of experience of every environment.

    `action` led to `obs` in the same row. `deter` and `stoch` are the latent state
    after `obs`, as last computed: h in bfloat16 and the class index of each z.
    """

    obs: Float[Array, "*rows obs"] | UInt8[Array, "*rows height width 3"]
    action: Float[Array, "*rows action"]
    reward: Float[Array, "*rows"]
    is_first: Bool[Array, "*rows"]
    is_last: Bool[Array, "*rows"]
    is_terminal: Bool[Array, "*rows"]
    is_corrupt: Bool[Array, "*rows"]
    deter: Array | None
    stoch: UInt8[Array, "*rows categoricals"] | None

    def sequence(self) -> Sequence:
        """The part the world model learns from."""
        return Sequence(
            self.obs,
            self.action,
            self.reward,
            self.is_first,
            self.is_last,
            self.is_terminal,
        )


class Replay(NamedTuple):
    """The ring: `rows` has shape `[capacity, envs, ...]`.

    `position` is the next row to write and `filled` the number of rows that hold data.
    """

    rows: Row
    position: Int[Array, ""]
    filled: Int[Array, ""]


class Window(NamedTuple):
    """Where a sampled batch lies: `[time, batch]` row and `[batch]` environment."""

    time: Int[Array, "time batch"]
    env: Int[Array, " batch"]


def pack_latent(state: State) -> tuple[Array, Array]:
    """Latent state as stored: h in bfloat16 and one byte a categorical."""
    classes = jnp.argmax(state.stoch, axis=-1).astype(jnp.uint8)
    return state.deter.astype(jnp.bfloat16), classes


def unpack_latent(deter: Array, stoch: Array, classes: int, dtype) -> State:
    """The inverse of `pack_latent`, up to bfloat16's rounding of h."""
    onehot = jax.nn.one_hot(stoch, classes, dtype=dtype)
    return State(deter.astype(dtype), onehot)


def init(capacity: int, row: Row) -> Replay:
    """An empty ring of `capacity` rows shaped like `row` (`[envs, ...]`)."""
    rows = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), row)
    return Replay(rows, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def add(replay: Replay, row: Row) -> Replay:
    """Write one row of every environment, over the oldest when full."""
    write = lambda ring, x: jax.lax.dynamic_update_index_in_dim(  # noqa: E731
        ring, x, replay.position, 0
    )
    capacity = replay.rows.reward.shape[0]
    return Replay(
        jax.tree.map(write, replay.rows, row),
        (replay.position + 1) % capacity,
        jnp.minimum(replay.filled + 1, capacity),
    )


def sample(
    replay: Replay, *, batch: int, length: int, key: PRNGKeyArray
) -> tuple[Row, Window]:
    """Draw `batch` windows of `length` consecutive rows, uniformly.

    A window never crosses the write position. Windows with a corrupt row are drawn
    again; an element whose every draw was corrupt repeats the first clean element.
    Where the whole batch drew nothing clean, its rewards are NaN, so that the update
    is skipped and counted: a corrupt row is never trained on. The caller must have
    filled at least `length` rows.
    """
    capacity, envs = replay.rows.reward.shape
    start_key, env_key = jax.random.split(key)
    shape = (batch, CANDIDATES)
    offset = jax.random.randint(start_key, shape, 0, replay.filled - length + 1)
    env = jax.random.randint(env_key, shape, 0, envs)
    oldest = replay.position - replay.filled
    steps = jnp.arange(length).reshape(-1, 1, 1)
    time = (oldest + offset[None] + steps) % capacity
    clean = ~jnp.any(replay.rows.is_corrupt[time, env[None]], axis=0)
    choice = jnp.argmax(clean, axis=-1)
    element = jnp.arange(batch)
    usable = clean[element, choice]
    element = jnp.where(usable, element, jnp.argmax(usable))
    window = Window(time[:, element, choice[element]], env[element, choice[element]])
    rows = jax.tree.map(lambda x: x[window.time, window.env[None]], replay.rows)
    reward = jnp.where(jnp.any(usable), rows.reward, jnp.nan)
    return rows._replace(reward=reward), window


def write_latents(
    replay: Replay, window: Window, states: State, learned: Bool[Array, ""]
) -> Replay:
    """Store the latent states just computed for the rows of `window`.

    States that are not finite leave the stored ones. So do all states of an update
    that was skipped (`learned` is False): its batch can then be drawn again, exactly,
    to be looked at.
    """
    deter, stoch = pack_latent(states)
    rows = replay.rows
    index = (window.time, jnp.broadcast_to(window.env[None], window.time.shape))
    assert rows.deter is not None and rows.stoch is not None
    finite = learned & jnp.all(jnp.isfinite(deter), axis=-1, keepdims=True)
    deter = jnp.where(finite, deter, rows.deter[index])
    stoch = jnp.where(finite, stoch, rows.stoch[index])
    return replay._replace(
        rows=rows._replace(
            deter=rows.deter.at[index].set(deter), stoch=rows.stoch.at[index].set(stoch)
        )
    )
