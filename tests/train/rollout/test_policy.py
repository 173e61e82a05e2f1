"""Trained agents outside of this project's programs."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_run import Toy, configured, shared

from core.agent import Agent
from core.sizes import ModelSize
from train.checkpoint.checkpointer import Checkpointer
from train.errors import UserError
from train.policy import Policy, load_policy
from train.run_dir import record


@pytest.fixture(scope="module")
def toy() -> Toy:
    return shared()


@pytest.fixture(scope="module")
def run_dir(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("run")
    record.write(configured(), path / "config.json")
    assert Checkpointer(path).save(40, toy.filled(), {"updates": 1})
    return path


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


@pytest.fixture(scope="module")
def loaded(run_dir):
    return load_policy(run_dir, batch=2)


@pytest.fixture
def policy(loaded):
    loaded.reset()
    return loaded


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ([[0.0], [np.nan]], r"obs\[1, 0\] is nan, not finite"),
        ([[np.inf], [np.nan]], r"obs\[0, 0\] is inf and 1 more entries"),
        ([[1e300], [0.0]], r"obs\[0, 0\] is 1e\+300, not finite in float32"),
        ([[1j], [0.0]], "obs is list of complex128: this policy takes one array"),
        ([["a"], ["b"]], "obs is list of <U1"),
        ([[0.0], [0.0, 1.0]], "obs is list of object"),
        ({"state": np.zeros(2)}, "obs is dict of object"),
        (None, "obs is NoneType of object"),
        (np.zeros((2, 2)), r"obs has shape \(2, 2\)"),
    ],
)
def test_an_observation_that_is_refused_is_not_remembered(policy, bad, said):
    good = np.ones((2, 1), np.float32)
    policy(good)
    before = policy._state, policy._action, policy._key
    with pytest.raises(ValueError, match=said) as caught:
        policy(bad, is_first=True)
    assert "\n" not in str(caught.value)
    assert all(
        a is b
        for a, b in zip(
            before, (policy._state, policy._action, policy._key), strict=True
        )
    )
    assert not np.any(policy._first)
    assert np.all(np.isfinite(policy(good)))


def test_numbers_of_any_kind_are_one_observation(run_dir):
    policy = load_policy(run_dir, batch=2)
    actions = []
    for dtype in (np.float32, np.float64, np.int64, np.bool_, jnp.bfloat16):
        policy.reset()
        policy._key = jax.random.key(0)
        actions.append(policy(np.ones((2, 1), dtype)))
    np.testing.assert_array_equal(actions, [actions[0]] * 5)
    assert policy._act._cached._cache_size() == 1
    with pytest.raises(ValueError, match=r"is_first has shape \(3,\).*shape \(2,\)"):
        policy(np.ones((2, 1)), is_first=np.ones(3, bool))


def test_images_are_bytes_and_have_the_agents_shape(getkey):
    size = ModelSize(units=8, deter=16, hidden=8, stoch=4, cnn_depth=2)
    agent = Agent((16, 16, 3), 1, key=getkey(), size=size)
    with pytest.raises(ValueError, match=r"obs_shape=\(32,.*observes .*\(16, 16, 3\)"):
        Policy(agent, (32, 32, 3))
    with pytest.raises(ValueError, match="batch=0 must be at least 1"):
        Policy(agent, (16, 16, 3), batch=0)
    policy = Policy(agent, (16, 16, 3))
    with pytest.raises(ValueError, match=r"obs has dtype float64: images are uint8"):
        policy(np.zeros((16, 16, 3)))
    assert policy(np.zeros((16, 16, 3), np.uint8)).shape == (1,)


def test_what_is_not_there(run_dir, tmp_path):
    with pytest.raises(UserError, match="no such directory"):
        load_policy(tmp_path / "nothing")
    with pytest.raises(UserError, match="the run has 1 of them"):
        load_policy(run_dir, agent=1)
    with pytest.raises(UserError, match="from 0"):
        load_policy(run_dir, agent=-1)
    wrong = {"agent": "0", "at": "newest"}
    for name, value in wrong.items():
        with pytest.raises(UserError, match=f"{name}='{value}': allowed: an integer"):
            load_policy(run_dir, **{name: value})  # pyright: ignore
