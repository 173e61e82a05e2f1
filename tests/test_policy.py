"""Trained agents outside of this project's programs."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_run import Toy, configured, shared

from train import record
from train.checkpoint import Checkpointer
from train.errors import UserError
from train.policy import load_policy


@pytest.fixture(scope="module")
def toy() -> Toy:
    return shared()


@pytest.fixture
def run_dir(toy: Toy, tmp_path: pathlib.Path) -> pathlib.Path:
    record.write(configured(), tmp_path / "config.json")
    assert Checkpointer(tmp_path).save(40, toy.filled(), {"updates": 1})
    return tmp_path


def test_it_acts_as_the_agent_does(toy, run_dir):
    agent = toy.filled().learner.agent
    shape = toy.programs.template.replay.rows.obs.shape[2:]
    obs: np.ndarray = np.random.default_rng(0).normal(size=(4, *shape))
    obs = obs.astype(np.float32)
    policy = load_policy(run_dir)
    state, action = agent.model.rssm.initial(), jnp.zeros(policy(obs[0]).shape)
    policy = load_policy(run_dir)
    key = jax.random.key(0)
    for time in range(4):
        seen = obs[time]
        key, now = jax.random.split(key)
        first = jnp.asarray(time in (0, 2))
        state, action = agent.act(state, seen, action, first, key=now, explore=False)
        ours = policy(seen, is_first=time == 2)
        np.testing.assert_allclose(ours, action, atol=1e-5)


def test_a_batch_and_forgetting(run_dir):
    policy = load_policy(run_dir, batch=3, explore=True, seed=1)
    shape = policy._obs_shape[1:]
    obs = np.ones((3, *shape), np.float32)
    first = policy(obs)
    assert first.shape[0] == 3 and np.all(np.abs(first) <= 1)
    assert len(np.unique(first[:, 0])) == 3  # each draws for itself
    policy(obs, is_first=np.array([True, False, False]))
    policy.reset()
    assert float(jnp.abs(policy._state.deter).max()) == 0
    with pytest.raises(ValueError, match=r"obs has shape \(2,.*takes \(3,"):
        policy(obs[:2])


def test_what_is_not_there(run_dir, tmp_path):
    with pytest.raises(UserError, match="no such directory"):
        load_policy(tmp_path / "nothing")
    with pytest.raises(UserError, match="the run has 1 of them"):
        load_policy(run_dir, agent=1)
    with pytest.raises(UserError, match="from 0"):
        load_policy(run_dir, agent=-1)
