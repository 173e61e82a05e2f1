"""Replay on the device: a ring of rows, time first, all environments in lockstep.

Why not flashbax: training starts each sequence from a stored latent state and writes
the new latents back after every update, which needs the sampled positions; rows of a
corrupt simulation must never be drawn; and on several devices, which each keep the rows
of their own environments, no row may have to travel.
"""

import math
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from core.rssm import State
from core.world_model import Sequence
from kernels.sharding import divided

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
    """Where a sampled batch lies: `[time, batch]` row and `[batch]` environment.

    An element that is not `usable` is the copy of another one.
    """

    time: Int[Array, "time batch"]
    env: Int[Array, " batch"]
    usable: Bool[Array, " batch"]


# The axis of each field along which devices divide the batch.
_WINDOW_AXES = Window(*cast(Any, (1, 0, 0)))


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
    write = lambda ring, x: jax.lax.dynamic_update_index_in_dim(
        ring, x, replay.position, 0
    )
    capacity = replay.rows.reward.shape[0]
    return Replay(
        jax.tree.map(write, replay.rows, row),
        (replay.position + 1) % capacity,
        jnp.minimum(replay.filled + 1, capacity),
    )


def parts(batch: int, envs: int) -> int:
    """Into how many equal parts a batch and the environments are divided.

    Every part of the batch is drawn from its own part of the environments, so any
    number of devices that divides this one can each draw from what they keep, and
    every number of devices draws the same batch.
    """
    return math.gcd(batch, envs)


def sample(
    replay: Replay, *, batch: int, length: int, key: PRNGKeyArray
) -> tuple[Row, Window]:
    """Draw `batch` windows of `length` consecutive rows, uniformly.

    The environments are represented evenly, see `parts`. A window never crosses the
    write position. Windows with a corrupt row are drawn again; an element whose every
    draw was corrupt repeats the first clean element. Where the whole batch drew nothing
    clean, its rewards are NaN, so that the update is skipped and counted: a corrupt row
    is never trained on. The caller must have filled at least `length` rows.
    """
    capacity, envs = replay.rows.reward.shape
    count = parts(batch, envs)
    start_key, env_key = jax.random.split(key)
    shape = (batch, CANDIDATES)
    offset = jax.random.randint(start_key, shape, 0, replay.filled - length + 1)
    start = (replay.position - replay.filled + offset) % capacity
    first = jnp.arange(batch) // (batch // count) * (envs // count)
    env = first[:, None] + jax.random.randint(env_key, shape, 0, envs // count)

    def draw(ring: Row, start: Array, env: Array) -> tuple[Row, Window]:
        """Of the devices' own part of the batch, from their own environments."""
        own = env % (envs // count) + _first(len(start), batch, envs)[:, None]
        steps = jnp.arange(length).reshape(-1, 1, 1)
        time = (start[None] + steps) % capacity
        clean = ~jnp.any(ring.is_corrupt[time, own[None]], axis=0)
        choice = jnp.argmax(clean, axis=-1)
        element = jnp.arange(len(start))
        time, own = time[:, element, choice], own[element, choice]
        rows = jax.tree.map(lambda x: x[time, own[None]], ring)
        return rows, Window(time, env[element, choice], clean[element, choice])

    rows, window = divided(draw, (1, 0, 0), (1, _WINDOW_AXES))(replay.rows, start, env)
    usable = window.usable

    def replaced() -> tuple[Row, Window]:
        element = jnp.where(usable, jnp.arange(batch), jnp.argmax(usable))
        copies = jax.tree.map(lambda x: x[:, element], rows)
        return copies, Window(window.time[:, element], window.env[element], usable)

    # Rare, and the only case in which rows cross devices.
    rows, window = jax.lax.cond(jnp.all(usable), lambda: (rows, window), replaced)
    reward = jnp.where(jnp.any(usable), rows.reward, jnp.nan)
    return rows._replace(reward=reward), window


def _first(size: int, batch: int, envs: int) -> Int[Array, " size"]:
    """Of `size` elements of the batch, and as many parts of the environments: the
    first environment that each element is drawn from."""
    count = parts(batch, envs)
    return jnp.arange(size) // (batch // count) * (envs // count)


def write_latents(
    replay: Replay, window: Window, states: State, learned: Bool[Array, ""]
) -> Replay:
    """Store the latent states just computed for the rows of `window`.

    States that are not finite leave the stored ones. So do all states of an update
    that was skipped (`learned` is False): its batch can then be drawn again, exactly,
    to be looked at.
    """
    deter, stoch = pack_latent(states)
    envs, batch = replay.rows.reward.shape[1], len(window.env)
    per_part = envs // parts(batch, envs)

    def write(
        ring: tuple[Array, Array],
        new: tuple[Array, Array],
        window: Window,
        learned: Bool[Array, ""],
    ) -> tuple[Array, Array]:
        own = window.env % per_part + _first(len(window.env), batch, envs)
        finite = jnp.all(jnp.isfinite(new[0]), axis=-1)
        # Past the end: written nowhere.
        kept = window.usable[None] & finite & learned
        own = jnp.where(kept, own[None], envs)
        put = lambda old, x: old.at[window.time, own].set(x, mode="drop")
        return put(ring[0], new[0]), put(ring[1], new[1])

    rows = replay.rows
    assert rows.deter is not None and rows.stoch is not None
    where = (1, 1, _WINDOW_AXES, None)
    deter, stoch = divided(write, where, 1)(
        (rows.deter, rows.stoch), (deter, stoch), window, learned
    )
    return replay._replace(rows=rows._replace(deter=deter, stoch=stoch))
