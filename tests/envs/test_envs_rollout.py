"""Long episodes of every task in float32, as training runs them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs

N = 4
EPISODES = 3


def uniform(key, shape, t):
    return jax.random.uniform(jax.random.fold_in(key, t), shape, minval=-1.0)


def bang_bang(key, shape, t):
    """Each action at a bound, drawn anew every eight decisions."""
    return jnp.sign(uniform(key, shape, t // 8))


@pytest.mark.slow
@pytest.mark.parametrize("name", envs.TASKS)
def test_three_episodes_stay_finite(name):
    env = envs.make(name, action_repeat=2)
    batch = envs.VectorEnv(env, 2 * N)
    shape = (N, env.spec.action_dim)
    decisions = EPISODES * (env.spec.episode_decisions + 1)

    def body(state, t):
        keys = jax.random.split(jax.random.key(1))
        action = jnp.concatenate(
            [uniform(keys[0], shape, t), bang_bang(keys[1], shape, t)]
        )
        state, row = batch.step(state, action)
        finite = jnp.all(jnp.isfinite(row.obs), axis=1)
        return state, (finite, row.reward, row.is_last, jnp.max(jnp.abs(row.obs)))

    @jax.jit
    def run(key):
        return jax.lax.scan(body, batch.reset(key)[0], jnp.arange(decisions))

    state, (finite, reward, is_last, largest) = run(jax.random.key(0))
    assert np.all(finite)
    assert np.all(state.corrupt_count == 0)
    assert np.all(np.sum(is_last, axis=0) == EPISODES)
    assert np.all((reward >= 0) & (reward <= 2 + 1e-5))
    assert np.max(largest) < 1e4
