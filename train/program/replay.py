"""The replay buffer: a circular buffer of steps on the device, time first.

One row holds one step of every environment. Why not flashbax: training starts each
trajectory from a stored latent state and writes the new latent states back after every
update, which needs the sampled positions; steps of a diverged simulation (NaN or Inf)
must never be drawn; and each of several devices keeps the steps of its own
environments, so that sampling needs no communication between devices.
"""

import math
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from core.latents import Latents
from core.rssm import State
from core.transition import Transition
from kernels.sharding import divided

# Draws tried for a window without corrupt steps before another element is repeated.
CANDIDATES = 4


class Replay(NamedTuple):
    """Stored steps: `rows` has shape `[capacity, envs, ...]`.

    `position` is the next row to write and `filled` the number of rows that hold data.
    """

    rows: Transition
    position: Int[Array, ""]
    filled: Int[Array, ""]


class Window(NamedTuple):
    """The position of a sampled batch in the buffer: row and environment.

    An element that is not `usable` is a copy of another one.
    """

    time: Int[Array, "time batch"]
    env: Int[Array, " batch"]
    usable: Bool[Array, " batch"]


# The axis of each field along which devices divide the batch.
_WINDOW_AXES = Window(*cast(Any, (1, 0, 0)))


def pack_latent(state: State, latents: Latents) -> tuple[Array, Array]:
    """A latent state as stored: h in bfloat16, and z as its family packs it."""
    stoch = latents.pack(state.stoch)
    return state.deter.astype(jnp.bfloat16), stoch


def unpack_latent(deter: Array, stoch: Array, latents: Latents, dtype) -> State:
    """The inverse of `pack_latent`, up to bfloat16's rounding."""
    z = latents.unpack(stoch, dtype)
    return State(deter.astype(dtype), z)


def init(capacity: int, row: Transition) -> Replay:
    """An empty buffer of `capacity` rows shaped like `row` (`[envs, ...]`)."""
    rows = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), row)
    return Replay(rows, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def add(replay: Replay, row: Transition) -> Replay:
    """Write one row of every environment, over the oldest when full."""
    write = lambda buffer, x: jax.lax.dynamic_update_index_in_dim(
        buffer, x, replay.position, 0
    )
    capacity = replay.rows.reward.shape[0]
    return Replay(
        jax.tree.map(write, replay.rows, row),
        (replay.position + 1) % capacity,
        jnp.minimum(replay.filled + 1, capacity),
    )


def parts(batch: int, envs: int) -> int:
    """The number of equal parts that a batch and the environments are divided into.

    Every part of the batch is drawn from its own part of the environments. Any number
    of devices that divides this number draws the same batch, each device from its own
    environments.
    """
    return math.gcd(batch, envs)


def sample(
    replay: Replay, *, batch: int, length: int, key: PRNGKeyArray
) -> tuple[Transition, Window]:
    """Draw `batch` windows of `length` consecutive rows, uniformly.

    Each environment has the same share of the batch (see `parts`). A window never
    crosses the write position. A window with a corrupt step is drawn again, up to
    `CANDIDATES` times; an element without a clean window repeats the first clean
    element. If no element is clean, all rewards are NaN, so that the update is skipped
    and counted: a corrupt step is never trained on. The caller must have filled at
    least `length` rows.
    """
    capacity, envs = replay.rows.reward.shape
    count = parts(batch, envs)
    start_key, env_key = jax.random.split(key)
    shape = (batch, CANDIDATES)
    offset = jax.random.randint(start_key, shape, 0, replay.filled - length + 1)
    start = (replay.position - replay.filled + offset) % capacity
    first = jnp.arange(batch) // (batch // count) * (envs // count)
    env = first[:, None] + jax.random.randint(env_key, shape, 0, envs // count)

    def draw(buffer: Transition, start: Array, env: Array) -> tuple[Transition, Window]:
        """Draw one device's part of the batch from its own environments."""
        own = env % (envs // count) + _first(len(start), batch, envs)[:, None]
        steps = jnp.arange(length).reshape(-1, 1, 1)
        time = (start[None] + steps) % capacity
        assert buffer.is_corrupt is not None
        clean = ~jnp.any(buffer.is_corrupt[time, own[None]], axis=0)
        choice = jnp.argmax(clean, axis=-1)
        element = jnp.arange(len(start))
        time, own = time[:, element, choice], own[element, choice]
        rows = jax.tree.map(lambda x: x[time, own[None]], buffer)
        return rows, Window(time, env[element, choice], clean[element, choice])

    rows, window = divided(draw, (1, 0, 0), (1, _WINDOW_AXES))(replay.rows, start, env)
    usable = window.usable

    def replaced() -> tuple[Transition, Window]:
        element = jnp.where(usable, jnp.arange(batch), jnp.argmax(usable))
        copies = jax.tree.map(lambda x: x[:, element], rows)
        return copies, Window(window.time[:, element], window.env[element], usable)

    # Rare, and the only case with communication between devices.
    rows, window = jax.lax.cond(jnp.all(usable), lambda: (rows, window), replaced)
    reward = jnp.where(jnp.any(usable), rows.reward, jnp.nan)
    return rows._replace(reward=reward), window


def _first(size: int, batch: int, envs: int) -> Int[Array, " size"]:
    """The first environment of each batch element's part, for `size` elements."""
    count = parts(batch, envs)
    return jnp.arange(size) // (batch // count) * (envs // count)


def write_latents(
    replay: Replay,
    window: Window,
    latent: tuple[Array, Array],
    learned: Bool[Array, ""],
) -> Replay:
    """Store the latent states just computed for the steps of `window`.

    A state that is not finite is not stored. No state of a skipped update is
    (`learned` is False), so that its batch can be drawn again exactly.

    Args:
        latent: the states, as `pack_latent` gives them.
        learned: whether the update was made.
    """
    deter, stoch = latent
    envs, batch = replay.rows.reward.shape[1], len(window.env)
    per_part = envs // parts(batch, envs)

    def write(
        buffer: tuple[Array, Array],
        new: tuple[Array, Array],
        window: Window,
        learned: Bool[Array, ""],
    ) -> tuple[Array, Array]:
        own = window.env % per_part + _first(len(window.env), batch, envs)
        # Classes always are; the numbers of Gaussian latents need not be.
        h, z = (jnp.all(jnp.isfinite(x), axis=-1) for x in new)
        finite = h & z
        # Past the end: written nowhere.
        kept = window.usable[None] & finite & learned
        own = jnp.where(kept, own[None], envs)
        put = lambda old, x: old.at[window.time, own].set(x, mode="drop")
        return put(buffer[0], new[0]), put(buffer[1], new[1])

    rows = replay.rows
    assert rows.deter is not None and rows.stoch is not None
    where = (1, 1, _WINDOW_AXES, None)
    deter, stoch = divided(write, where, 1)(
        (rows.deter, rows.stoch), (deter, stoch), window, learned
    )
    return replay._replace(rows=rows._replace(deter=deter, stoch=stoch))
