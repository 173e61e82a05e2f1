"""Checks that the parity tests of one domain each have in common.

All need `jax.enable_x64`; `float64` below is a fixture for that.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
import scipy.stats

FILTER = pytest.mark.filterwarnings(
    # dm_control's indexing, under numpy 2.5.
    "ignore:Setting the shape on a NumPy array:DeprecationWarning"
)


@pytest.fixture(scope="module", autouse=True)
def float64():
    # jax keeps the constants inside mjx in the precision that used them first.
    jax.clear_caches()
    with jax.enable_x64(True):
        yield
    jax.clear_caches()


def errors_of(ours, theirs):
    """The largest error of each state's entries."""
    return np.max(np.abs(np.asarray(ours) - np.stack(theirs)), axis=1)


def assert_within(errors, allowed):
    """`allowed` bounds the median and the maximum of the errors."""
    measured = (np.median(errors), np.max(errors))
    assert all(m <= a for m, a in zip(measured, allowed, strict=True)), measured


def check_control_step(name, allowed):
    """Next state, observation and reward after one control step of visited states."""
    group = parity.group_of(name)
    state, timestep = parity.advanced(group)
    assert state.qpos.dtype == jnp.float64
    qpos, qvel, rows = parity.steps_of(parity.load(name), name)
    assert_within(errors_of(state.qpos, qpos), allowed)
    assert_within(errors_of(state.qvel, qvel), allowed)
    obs, reward = parity.measure(name)(state)
    theirs = [parity.flat(row.observation) for row in rows]
    assert_within(errors_of(obs, theirs), allowed)
    assert_within(errors_of(reward[:, None], [[row.reward] for row in rows]), allowed)
    assert not np.any(timestep.is_corrupt)


def check_rewards(name, cases):
    """Rewards of states built by hand: those given, and dm_control's.

    Nothing may touch anything in these states: the forces, which take long to compile,
    are taken to be zeros.

    Args:
        name: the task.
        cases: rows of qpos, qvel, scene and the reward worked out by hand.
    """
    env, dm_env = parity.make(name), parity.load(name)

    def measure(qpos, qvel, scene):
        state = env.from_physics(qpos, qvel, scene=scene)
        force = jnp.zeros_like(state.physics.force)
        physics = dataclasses.replace(state.physics, force=force)
        state = dataclasses.replace(state, physics=physics)
        return env.observe(state), env.reward(state)

    *columns, expected = zip(*cases, strict=True)
    columns = [np.stack(column) for column in columns]
    obs, reward = jax.jit(jax.vmap(measure))(*columns)
    np.testing.assert_allclose(reward, expected, atol=1e-9)
    for i, (qpos, qvel, scene) in enumerate(zip(*columns, strict=True)):
        parity.put(dm_env, name, qpos, qvel, scene=scene)
        theirs = float(dm_env.task.get_reward(dm_env.physics))
        assert reward[i] == pytest.approx(theirs, abs=1e-12)
        theirs = parity.flat(dm_env.task.get_observation(dm_env.physics))
        np.testing.assert_allclose(obs[i], theirs, atol=1e-9)


def check_resets(name, n=1000):
    """Starts drawn here and by dm_control: means, ranges, distributions, independence.

    Returns:
        Ours, `(n, nq + nv + nscene)`.
    """
    dm_env = parity.load(name)
    theirs = []
    for _ in range(n):
        dm_env.reset()
        data = dm_env.physics.data
        scene = parity.scene_of(dm_env, name)
        theirs.append(np.concatenate([data.qpos, data.qvel, scene]))
    theirs = np.stack(theirs)

    env = parity.make(name)

    def start(key):
        scene_key, key = jax.random.split(key)
        scene = env.task.draw_scene(env.model, scene_key)
        return jnp.concatenate([*env.task.initial(env._simulator, key), scene])

    ours = np.asarray(jax.jit(jax.vmap(start))(jax.random.split(jax.random.key(1), n)))
    assert ours.shape == theirs.shape
    for column, (a, b) in enumerate(zip(ours.T, theirs.T, strict=True)):
        if np.ptp(b) == 0:
            np.testing.assert_array_equal(a, b)
            continue
        standard_error = np.sqrt((a.var() + b.var()) / n)
        assert abs(a.mean() - b.mean()) < 4 * standard_error, column
        assert np.asarray(scipy.stats.ks_2samp(a, b))[1] > 1e-3, column
        assert np.ptp(a) == pytest.approx(np.ptp(b), rel=0.25), column
        assert a.std() == pytest.approx(b.std(), rel=0.1), column
    varying = ours[:, np.ptp(ours, axis=0) > 0]
    correlation = np.corrcoef(varying, rowvar=False)
    assert np.all(np.abs(correlation - np.eye(len(correlation))) < 0.15)
    return ours
