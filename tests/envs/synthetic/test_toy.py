"""The toys earn what their docstrings say."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs.synthetic import toy


def make_target(action_repeat=1):
    env = envs.make("toy-target", action_repeat=action_repeat)
    assert isinstance(env, toy.Target)
    return env


def episode(env, policy, key):
    """Rewards and flags of one episode: Timesteps of shape (decisions, ...)."""

    def body(carry, _):
        state, obs = carry
        state, timestep = env.step(state, policy(obs))
        return (state, timestep.obs), timestep

    state, first = env.reset(key)
    length = env.spec.episode_decisions
    _, rows = jax.lax.scan(body, (state, first.obs), length=length)
    return first, rows


@pytest.mark.parametrize("action_repeat", [1, 2, 4])
def test_constant(getkey, action_repeat):
    env = envs.make("toy-constant", action_repeat=action_repeat)
    _, rows = episode(env, lambda obs: jnp.ones(1), getkey())
    np.testing.assert_array_equal(rows.reward, action_repeat)
    assert jnp.sum(rows.reward) == env.spec.episode_steps == 20
    assert np.flatnonzero(rows.is_last).tolist() == [env.spec.episode_decisions - 1]
    # Its docstring's value of the first state, by backward recursion.
    value = 0.0
    for reward in rows.reward:
        value = float(reward) + 0.9 * value
    decisions = env.spec.episode_decisions
    assert value == pytest.approx(action_repeat * (1 - 0.9**decisions) / (1 - 0.9))


def test_target_optimal_return(getkey):
    env = make_target()
    for _ in range(5):
        first, rows = episode(env, env.optimal_action, getkey())
        expected = env.optimal_return(first.obs[0])
        np.testing.assert_allclose(jnp.sum(rows.reward), expected, rtol=1e-5)
    # From 0.25 the distances are 0.15, 0.05, 0, 0, ...
    assert float(env.optimal_return(jnp.asarray(0.25))) == pytest.approx(39.8)
    assert float(env.optimal_return(jnp.asarray(-0.25))) == pytest.approx(39.8)


def test_target_other_policies_earn_less(getkey):
    env = make_target()
    key = getkey()
    first, best = episode(env, env.optimal_action, key)
    for policy in (
        lambda obs: -env.optimal_action(obs),
        lambda obs: 0.9 * env.optimal_action(obs),
        lambda obs: jnp.sign(-obs),
        lambda obs: jnp.zeros(1),
    ):
        other_first, rows = episode(env, policy, key)
        np.testing.assert_array_equal(other_first.obs, first.obs)
        assert jnp.sum(rows.reward) < jnp.sum(best.reward)


def test_target_starts_everywhere(getkey):
    env = make_target(2)
    keys = jax.random.split(getkey(), 1000)
    _, timestep = jax.vmap(env.reset)(keys)
    starts = np.asarray(timestep.obs[:, 0])
    assert abs(starts.mean()) < 4 * starts.std() / 1000**0.5
    assert -1 <= starts.min() < -0.98 and 0.98 < starts.max() <= 1


def test_target_resets_itself(getkey):
    env = make_target(2)
    state, _ = env.reset(getkey())
    state = dataclasses.replace(state, step_count=jnp.asarray(38, jnp.int32))
    state, timestep = env.step(state, jnp.ones(1))
    assert timestep.is_last and not timestep.is_terminal
    assert env.reward(state) == 1 - jnp.abs(env.observe(state)[0])
    state, timestep = env.step(state, jnp.ones(1))
    assert timestep.is_first and timestep.reward == 0 and state.step_count == 0


def test_corrupt_step(getkey):
    env = make_target(2)
    start, first = env.reset(getkey())
    state, timestep = env.step(start, jnp.full(1, jnp.nan))
    assert timestep.is_corrupt and timestep.is_last and timestep.reward == 0
    assert state.corrupt_count == 1
    np.testing.assert_array_equal(timestep.obs, first.obs)
    state, timestep = env.step(state, jnp.zeros(1))
    assert timestep.is_first and not timestep.is_corrupt
