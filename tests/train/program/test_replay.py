"""The replay buffer: what is stored, what is drawn, where latents are written."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.latents import Categorical, Gaussian
from core.rssm import State
from core.transition import Transition
from train.program import replay

CAPACITY, ENVS, DETER, ROWS, CLASSES = 6, 2, 3, 2, 4


def make_row(number, *, corrupt=(False, False), latents=True):
    """Row `number` of both environments; everything in it tells where it is from."""
    mark = 10.0 * number + np.arange(ENVS)
    latent = (None, None)
    if latents:
        latent = (
            jnp.full((ENVS, DETER), number, jnp.bfloat16),
            jnp.full((ENVS, ROWS), number % CLASSES, jnp.uint8),
        )
    return Transition(
        jnp.asarray(mark[:, None], jnp.float32),
        jnp.asarray(mark[:, None] + 0.1, jnp.float32),
        jnp.asarray(mark + 0.2, jnp.float32),
        jnp.full(ENVS, number % 2 == 0),
        jnp.full(ENVS, number % 3 == 0),
        jnp.full(ENVS, number % 4 == 0),
        jnp.asarray(corrupt),
        *latent,
    )


add = jax.jit(replay.add)


def filled(count, *, corrupt=(), latents=True):
    """A buffer after rows 0 … count − 1; `corrupt` holds (row, environment) pairs."""
    buffer = replay.init(CAPACITY, make_row(0, latents=latents))
    for number in range(count):
        flags = tuple((number, env) in corrupt for env in range(ENVS))
        buffer = add(buffer, make_row(number, corrupt=flags, latents=latents))
    return buffer


@functools.partial(jax.jit, static_argnames=("batch", "length"))
def sample(buffer, key, *, batch, length):
    return replay.sample(buffer, batch=batch, length=length, key=key)


def numbers(rows):
    """The row numbers and environments that a sampled batch came from."""
    mark = np.asarray(rows.obs)[..., 0]
    return mark // 10, mark % 10


def test_the_ring_keeps_the_newest_rows():
    buffer = filled(0)
    assert (buffer.position, buffer.filled) == (0, 0)
    buffer = filled(4)
    assert (buffer.position, buffer.filled) == (4, 4)
    np.testing.assert_array_equal(buffer.rows.obs[:4, 1, 0], [1, 11, 21, 31])
    buffer = filled(8)
    assert (buffer.position, buffer.filled) == (2, CAPACITY)
    np.testing.assert_array_equal(buffer.rows.obs[:, 0, 0], [60, 70, 20, 30, 40, 50])
    np.testing.assert_allclose(buffer.rows.reward[:, 1], buffer.rows.obs[:, 1, 0] + 0.2)
    assert filled(12).position == 0


def test_rows_come_back_whole():
    rows, _ = sample(filled(8), jax.random.key(0), batch=20, length=2)
    number, env = numbers(rows)
    np.testing.assert_allclose(rows.action[..., 0], 10 * number + env + 0.1, rtol=1e-5)
    np.testing.assert_allclose(rows.reward, 10 * number + env + 0.2, rtol=1e-5)
    np.testing.assert_array_equal(rows.is_first, number % 2 == 0)
    np.testing.assert_array_equal(rows.is_last, number % 3 == 0)
    np.testing.assert_array_equal(rows.is_terminal, number % 4 == 0)
    assert rows.deter is not None
    assert rows.stoch is not None
    np.testing.assert_array_equal(rows.deter[..., 0], number)
    np.testing.assert_array_equal(rows.stoch[..., 1], number % CLASSES)
    np.testing.assert_array_equal(rows.is_corrupt, np.zeros((2, 20), bool))


@pytest.mark.parametrize("count", [3, 5, 6, 7, 9, 11, 12, 23])
def test_windows_are_consecutive_and_never_cross_the_write_position(count):
    """Partly filled, just full, and wrapped around to every position."""
    buffer = filled(count)
    oldest = max(0, count - CAPACITY)
    rows, window = sample(buffer, jax.random.key(count), batch=200, length=3)
    number, env = numbers(rows)
    assert number.shape == (3, 200)
    np.testing.assert_array_equal(np.diff(number, axis=0), 1)
    np.testing.assert_array_equal(np.diff(env, axis=0), 0)
    # All windows of the rows that are kept, and no other.
    assert set(number[0]) == set(range(oldest, count - 2))
    assert set(env[0]) == {0, 1}
    # The window says where they lie.
    np.testing.assert_array_equal(window.time, number % CAPACITY)
    np.testing.assert_array_equal(window.env, env[0])


def test_a_window_as_long_as_the_ring():
    rows, _ = sample(filled(8), jax.random.key(0), batch=4, length=CAPACITY)
    np.testing.assert_array_equal(numbers(rows)[0][:, 0], np.arange(2, 8))


def test_windows_are_drawn_uniformly():
    total = 20_000
    rows, _ = sample(filled(9), jax.random.key(1), batch=total, length=3)
    number, env = numbers(rows)
    # First rows 3 to 6 of two environments: eight windows.
    counts = np.histogram2d(number[0], env[0], bins=[4, 2])[0]
    allowed = 3 * np.sqrt(total * (1 / 8) * (7 / 8))
    assert (np.abs(counts - total / 8) < allowed).all()
    # Neighbours in the batch are independent: each of the four starts is as likely.
    same = number[0][1:] == number[0][:-1]
    assert abs(same.sum() - total / 4) < 3 * np.sqrt(total * (1 / 4) * (3 / 4))


def test_environments_are_represented_evenly():
    """Part b of the batch comes from part b of the environments, in every batch."""
    _, window = sample(filled(9), jax.random.key(5), batch=6, length=2)
    np.testing.assert_array_equal(window.env, [0, 0, 0, 1, 1, 1])
    assert replay.parts(16, 16) == 16
    assert replay.parts(16, 12) == 4
    assert replay.parts(6, 1) == 1


def test_batches_differ_by_key():
    buffer = filled(8)
    one, two = (
        np.asarray(sample(buffer, jax.random.key(k), batch=50, length=2)[0].obs)
        for k in (0, 1)
    )
    assert (one != two).any()


def test_corrupt_rows_are_never_drawn():
    # Rows 3 to 8 are kept; of the windows of two rows, 4 of 5 are clean in
    # environment 0 (its corrupt row is the newest) and 3 of 5 in environment 1.
    buffer = filled(9, corrupt={(8, 0), (4, 1), (1, 0)})
    rows, _ = sample(buffer, jax.random.key(2), batch=4000, length=2)
    assert not rows.is_corrupt.any()
    number, env = numbers(rows)
    assert set(number[0][env[0] == 0]) == {3, 4, 5, 6}
    assert set(number[0][env[0] == 1]) == {5, 6, 7}


def test_an_element_without_a_clean_draw_repeats_a_clean_one():
    # Environment 0 is corrupt throughout: of 1000 elements some draw nothing else.
    buffer = filled(6, corrupt={(number, 0) for number in range(6)})
    rows, _ = sample(buffer, jax.random.key(3), batch=1000, length=2)
    assert not rows.is_corrupt.any()
    number, env = numbers(rows)
    assert (env == 1).all()
    assert set(number[0]) == set(range(5))


def test_a_batch_of_nothing_but_corrupt_rows_is_an_update_to_skip():
    corrupt = {(number, env) for number in range(6) for env in (0, 1)}
    rows, _ = sample(filled(6, corrupt=corrupt), jax.random.key(3), batch=9, length=2)
    assert np.isnan(rows.reward).all()
    rows, _ = sample(filled(6), jax.random.key(3), batch=9, length=2)
    assert np.isfinite(rows.reward).all()


def test_latents_are_packed_and_unpacked():
    stoch = jax.nn.one_hot(jnp.array([[1, 3], [0, 2]]), CLASSES)
    # 1 + 2^-9 has no bfloat16: the nearest is 1.
    state = State(jnp.array([[0.5, -2.0, 1.0], [1 + 2**-9, 0.0, 3.0]]), stoch)
    latents = Categorical(CLASSES)
    deter, classes = replay.pack_latent(state, latents)
    assert deter.dtype == jnp.bfloat16
    assert classes.dtype == jnp.uint8
    np.testing.assert_array_equal(classes, [[1, 3], [0, 2]])
    back = replay.unpack_latent(deter, classes, latents, jnp.float32)
    np.testing.assert_array_equal(back.deter, [[0.5, -2, 1], [1, 0, 3]])
    np.testing.assert_array_equal(back.stoch, stoch)


@pytest.mark.parametrize("spoilt", ("h", "z", None))
def test_a_latent_state_that_is_not_finite_is_not_stored(spoilt):
    """Of Gaussian latents, too: with NaN in z alone, sequences would begin with it."""
    buffer = filled(9)
    stored = buffer.rows.deter
    assert stored is not None
    shape = (*stored.shape[:2], ROWS)
    rows = buffer.rows._replace(stoch=jnp.zeros(shape, jnp.bfloat16))
    buffer = buffer._replace(rows=rows)
    _, window = sample(buffer, jax.random.key(4), batch=1, length=1)
    deter = jnp.full((1, 1, DETER), 3.0).at[..., 0].set(jnp.nan if spoilt == "h" else 3)
    z = (
        jnp.full((1, 1, ROWS, 1), 5.0)
        .at[..., 0, 0]
        .set(jnp.nan if spoilt == "z" else 5)
    )
    latent = replay.pack_latent(State(deter, z), Gaussian())
    after = replay.write_latents(buffer, window, latent, jnp.array(True))
    place = int(window.time[0, 0]), int(window.env[0])
    assert after.rows.stoch is not None and after.rows.deter is not None
    changed = bool(jnp.any(after.rows.stoch != 0))
    assert changed == (spoilt is None)
    same = bool(jnp.all(after.rows.deter[place] == stored[place]))
    assert same == (spoilt is not None)


def test_latents_are_written_back_where_they_belong():
    buffer = filled(9)
    rows, window = sample(buffer, jax.random.key(4), batch=3, length=3)
    # As in training: the first row only gives the state before the others.
    window = window._replace(time=window.time[1:])
    number, env = (x[1:] for x in numbers(rows))
    # The mark of a row and its environment, exact in bfloat16, in every latent.
    mark = jnp.asarray(100 + 2 * number + env, jnp.float32)
    deter = jnp.broadcast_to(mark[..., None], (*mark.shape, DETER))
    classes = jnp.asarray((number + 1) % CLASSES, jnp.int32)
    stoch = jax.nn.one_hot(classes, CLASSES)[..., None, :]
    stoch = jnp.broadcast_to(stoch, (*mark.shape, ROWS, CLASSES))
    after = jax.jit(replay.write_latents)(
        buffer,
        window,
        replay.pack_latent(State(deter, stoch), Categorical(CLASSES)),
        jnp.array(True),
    )

    written = {(int(t), int(e)) for t, e in zip(number.flat, env.flat, strict=True)}
    assert 2 < len(written) < CAPACITY * ENVS
    assert after.rows.deter is not None
    assert after.rows.stoch is not None
    for t in range(3, 9):
        for e in range(ENVS):
            wanted = (100 + 2 * t + e, (t + 1) % CLASSES)
            if (t, e) not in written:
                wanted = (t, t % CLASSES)
            place = (t % CAPACITY, e)
            np.testing.assert_array_equal(after.rows.deter[place], [wanted[0]] * DETER)
            np.testing.assert_array_equal(after.rows.stoch[place], [wanted[1]] * ROWS)
    # Nothing else changes.
    kept = ("obs", "action", "reward", "is_first", "is_last", "is_terminal")
    for name in kept:
        before_it, after_it = getattr(buffer.rows, name), getattr(after.rows, name)
        np.testing.assert_array_equal(before_it, after_it)
    assert (after.position, after.filled) == (buffer.position, buffer.filled)


def test_a_ring_without_latents():
    buffer = filled(8, latents=False)
    rows, _ = sample(buffer, jax.random.key(5), batch=4, length=2)
    assert rows.deter is None
    assert rows.stoch is None
    assert len(jax.tree.leaves(buffer.rows)) == 7
