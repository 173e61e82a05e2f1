"""The synthetic systems: known returns, episodes, and one program to train on them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs.synthetic import lqg, teacher


@pytest.mark.parametrize(
    ("name", "obs", "action", "steps"), [("teacher", 12, 4, 500), ("lqg", 3, 2, 200)]
)
def test_episodes(getkey, name, obs, action, steps):
    assert set(envs.SYNTHETIC) == {"teacher", "lqg"}
    env = envs.make(name)
    spec = env.spec
    assert (spec.name, spec.obs_shape, spec.action_dim) == (name, (obs,), action)
    assert (spec.action_repeat, spec.episode_steps) == (2, steps)

    def body(state, key):
        state, timestep = env.step(state, jax.random.normal(key, (action,)))
        return state, (timestep, env.reward(state))

    state, first = env.reset(getkey())
    keys = jax.random.split(getkey(), steps // 2 + 1)
    state, (rows, rewards) = jax.jit(lambda s, k: jax.lax.scan(body, s, k))(state, keys)
    assert first.is_first and np.all(np.abs(first.obs) <= 1)
    assert np.flatnonzero(rows.is_last).tolist() == [steps // 2 - 1]
    assert np.flatnonzero(rows.is_first).tolist() == [steps // 2]
    assert rows.reward[-1] == 0 and not np.any(rows.is_terminal | rows.is_corrupt)
    assert np.all(rows.reward[:-1] != 0) and np.all(rewards[:-1] != 0)
    assert not np.array_equal(rows.obs[-1], first.obs)


@pytest.mark.parametrize("name", ["teacher", "lqg"])
def test_a_decision_is_the_map_twice(getkey, name):
    module = {"teacher": teacher, "lqg": lqg}[name]
    env: Any = envs.make(name)
    system = env.teacher if name == "teacher" else env.system
    state, first = env.reset(getkey())
    action = jnp.full(env.spec.action_dim, 2.0)
    after, row = env.step(state, action)
    clipped = jnp.ones_like(action)
    middle = module.dynamics(system, first.obs, clipped)
    rewards = [module.reward(system, s, clipped) for s in (first.obs, middle)]
    np.testing.assert_allclose(row.reward, sum(rewards), rtol=1e-5)
    np.testing.assert_allclose(env.reward(after), rewards[1], rtol=1e-5)
    expected = module.dynamics(system, middle, clipped)
    np.testing.assert_allclose(row.obs, expected, rtol=1e-5, atol=1e-6)


def test_corrupt_step(getkey):
    env = envs.make("lqg")
    state, first = env.reset(getkey())
    state, row = env.step(state, jnp.full(2, jnp.nan))
    assert row.is_corrupt and row.is_last and row.reward == 0
    assert env.reward(state) == 0 and state.corrupt_count == 1
    np.testing.assert_array_equal(row.obs, first.obs)
    inner = state.inner._replace(point=jnp.full(3, 1e30))
    state = dataclasses.replace(state, inner=inner)
    assert env.advance(state, jnp.zeros(2))[1].is_corrupt  # the reward overflows


@pytest.mark.parametrize("name", ["teacher", "lqg"])
def test_systems_are_the_same_in_float64(name):
    single: Any = envs.make(name)
    with jax.enable_x64(True):
        double: Any = envs.make(name)
        weights = [getattr(e, "teacher", None) or e.system for e in (single, double)]
        for a, b in zip(*map(jax.tree.leaves, weights), strict=True):
            assert b.dtype == jnp.float64
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_teacher_is_saturated_and_never_dies(getkey):
    """Its next states sit near ±1, which a linear output cannot imitate."""
    made = teacher.make_teacher(jax.random.key(teacher.TeacherEnv.SEED))
    roll = jax.vmap(lambda key: teacher.reference_rollout(made, key))
    rows = roll(jax.random.split(getkey(), 20))
    assert rows.states.shape == (20, 500, 12) and rows.rewards.shape == (20, 500)
    share = np.mean(np.abs(rows.next_states) > 0.99)
    assert 0.8 < share < 0.97
    np.testing.assert_allclose(rows.next_states[:, :-1], rows.states[:, 1:])
    signs = np.sign(rows.states[:, 100:]).reshape(-1, 12)
    assert len(np.unique(signs, axis=0)) > 100
    wide = teacher.make_teacher(getkey(), hidden=1024)
    deep = jax.vmap(lambda key: teacher.reference_rollout(wide, key))
    rewards = deep(jax.random.split(getkey(), 20)).rewards
    assert 0.2 < np.std(rewards) / np.std(rows.rewards) < 5


def test_lqg_return_is_the_sum_of_rewards(getkey):
    with jax.enable_x64(True):
        key = jax.random.key(3)
        system = lqg.make_lqg(key, dynamics_norm=0.6)
        system = system._replace(
            drift=jnp.array([0.1, -0.2, 0.3]), bonus=jnp.array(0.4)
        )
        gain, start = lqg.make_gain(key, norm=0.5), jnp.array([1.0, -1.0, 0.5])
        assert float(jnp.linalg.norm(system.state_matrix, ord=2)) == pytest.approx(0.6)
        assert float(jnp.linalg.norm(gain, ord=2)) == pytest.approx(0.5)
        rewards = lqg.reward(system, *lqg.rollout(system, gain, start, steps=400))
        summed = jnp.sum(0.9 ** jnp.arange(400) * rewards)
        exact = lqg.discounted_return(system, gain, start, discount=0.9)
        np.testing.assert_allclose(exact, summed, rtol=1e-12)


def test_lqg_optimal_gain(getkey):
    with jax.enable_x64(True):
        system = lqg.make_lqg(jax.random.key(0), dynamics_norm=0.95)
        gain, p = lqg.optimal_gain(system, discount=0.95)
        start = jnp.array([1.0, 0.5, -0.3])

        def value(gain):
            return lqg.discounted_return(system, gain, start, discount=0.95)

        np.testing.assert_allclose(value(gain), -start @ p @ start, rtol=1e-10)
        slope = jax.grad(value)(gain)
        np.testing.assert_allclose(slope, 0, atol=1e-9)
        assert value(gain) > value(1.1 * gain)
        assert value(gain) > value(0 * gain) + 0.05
