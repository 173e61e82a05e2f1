"""Environments of mujoco_playground, without the package."""

import dataclasses
import importlib.util
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_envs_checks import refused

import envs
from envs import playground
from envs.playground import PlaygroundEnv


class Inner(eqx.Module):
    """The state of `Walk`, of the form that mujoco_playground's have."""

    data: jax.Array
    obs: Any
    reward: jax.Array
    done: jax.Array
    info: dict

    def replace(self, **changes):
        return dataclasses.replace(self, **changes)


class Walk:
    """A walk on a line that ends at 3, as a mujoco_playground environment."""

    dt = 0.5
    action_size = 1

    def __init__(self, as_dict=False):
        self._config = {"episode_length": 12}
        self.as_dict = as_dict

    def _obs(self, x):
        return {"state": x[None], "secret": x[None]} if self.as_dict else x[None]

    def reset(self, rng):
        x = jax.random.uniform(rng)
        none = jnp.zeros(())
        return Inner(data=x, obs=self._obs(x), reward=none, done=none, info={"r": rng})

    def step(self, state, action):
        x = state.data + action[0]
        done = (x > 3).astype(float)
        return state.replace(data=x, obs=self._obs(x), reward=1.0, done=done)


@pytest.mark.parametrize("as_dict", [False, True])
def test_a_playground_environment(as_dict):
    env = playground.PlaygroundEnv(Walk(as_dict), name="walk", action_repeat=2)
    assert env.spec == envs.EnvSpec(
        name="walk",
        obs_shape=(1,),
        action_dim=1,
        action_repeat=2,
        episode_steps=12,
        control_timestep=0.5,
    )
    batch: Any = envs.VectorEnv(env, 3)
    step: Any = jax.jit(batch.step)
    state, row = jax.jit(batch.reset)(jax.random.key(0))
    assert np.all(row.is_first) and len(np.unique(row.obs)) == 3
    x = row.obs[:, 0]
    # The first moves on, the second ends in its first control step, the third breaks.
    action = jnp.array([[0.5], [1.0], [jnp.nan]])
    state = dataclasses.replace(
        state, inner=state.inner.replace(data=x + jnp.array([0.0, 2.5, 0.0]))
    )
    state, row = step(state, action)
    np.testing.assert_allclose(row.obs[:2, 0], [x[0] + 1.0, x[1] + 3.5], rtol=1e-5)
    assert row.reward.tolist() == [2, 1, 0]
    assert row.is_last.tolist() == [False, True, True]
    assert row.is_terminal.tolist() == [False, True, False]
    assert row.is_corrupt.tolist() == [False, False, True]
    for t in range(5):
        state, row = step(state, jnp.zeros((3, 1)))
        assert row.is_first.tolist() == [False, t == 0, t == 0]
    assert row.is_last.tolist() == [True, False, False]  # its time is over
    assert not np.any(row.is_terminal) and state.corrupt_count.tolist() == [0, 0, 1]
    assert step._cache_size() == 1


def test_playground_environments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"obs_key='image'.*\['secret', 'state'\]"):
        playground.PlaygroundEnv(Walk(True), name="walk", obs_key="image")
    with pytest.raises(ValueError, match=r"action_repeat=5.*12 control steps"):
        playground.PlaygroundEnv(Walk(), name="walk", action_repeat=5)


@pytest.mark.skipif(
    importlib.util.find_spec("mujoco_playground") is not None, reason="it is installed"
)
def test_the_missing_package_is_named():
    with pytest.raises(ImportError, match=r"needs mujoco_playground.*pip install"):
        playground.make("CheetahRun")


@pytest.mark.slow
def test_a_real_playground_task():
    pytest.importorskip("mujoco_playground")
    env = playground.make("CartpoleBalance", config={"impl": "jax"})
    state, row = jax.jit(env.reset)(jax.random.key(0))
    assert row.obs.shape == env.spec.obs_shape == (5,)
    state, row = jax.jit(env.step)(state, jnp.zeros(1))
    assert row.reward > 0 and not row.is_last
    with pytest.raises(ValueError, match="task='CartpoleBalanc' is unknown"):
        playground.make("CartpoleBalanc")


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Robot:
    """The state of a mujoco_playground environment."""

    data: Any
    obs: Any
    reward: Any
    done: Any
    info: dict

    def replace(self, **changes):
        return dataclasses.replace(self, **changes)


class Kicked:
    """Keeps Python numbers and an Inf in its state, as robots there do."""

    action_size, dt = np.int64(2), 0.02

    def __init__(self, **changes):
        self.changes = changes

    def reset(self, rng):
        info = {"rng": rng, "step": 0, "kick": jnp.array([-jnp.inf]), "last": 0}
        return Robot(jnp.zeros(2), {"state": jnp.zeros(2)}, 0.0, 0.0, info)

    def step(self, state, action):
        data = state.data + action
        info = state.info | {"step": state.info["step"] + 1, "last": action[0]}
        after = Robot(data, {"state": data}, -jnp.sum(data), data[0] > 3, info)
        return after.replace(**self.changes)


def test_a_robot_with_python_numbers_compiles_one_step():
    env = PlaygroundEnv(Kicked(), name="robot")
    assert env.spec.action_dim == 2 and env.spec.episode_steps == 1000
    step: Any = jax.jit(env.step)
    state, row = jax.jit(env.reset)(jax.random.key(0))
    assert not row.is_corrupt  # its Inf is its own
    for t in range(1, 4):
        state, row = step(state, jnp.ones(2))
        assert row.obs.tolist() == [t, t] and not row.is_corrupt
    assert state.inner.info["step"] == 3 and state.inner.info["last"] == 1.0
    state, row = step(state, jnp.ones(2))
    assert row.is_terminal and row.is_last
    assert step._cache_size() == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": jnp.zeros(3)}, r"step returns .*\.data is float32\[3\], not float"),
        ({"info": {}}, r"step returns .*\.info\['kick'\] is missing, .*and 1 more"),
        ({"obs": jnp.zeros(2)}, r"step returns .*\.obs is new, .*\['state'\] is miss"),
    ],
)
def test_a_robot_whose_state_changes_is_refused(change, said):
    refused(lambda: PlaygroundEnv(Kicked(**change), name="robot"), said)
