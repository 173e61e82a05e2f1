"""The player of whole episodes: against a plain loop, with every way to end."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from core.agent import Agent
from core.sizes import ModelSize
from envs import Env, VectorEnv
from train.config.cli import parse
from train.rollout.player import make_evaluate, make_player
from train.rollout.scores import Episodes, Score, make_scorer

TINY = ModelSize(units=8, deter=16, hidden=8, stoch=4, classes=4, blocks=2)


pytestmark = pytest.mark.usefixtures("quick_compiles")


def agent_for(env: Env, seed: int = 0) -> Agent:
    spec = env.spec
    key = jax.random.key(seed)
    return Agent(spec.obs_shape[0], spec.action_dim, key=key, size=TINY)


def climbing(limit: int = 10**9, rate: float = 0.3, **changes: Any) -> Env:
    """Rises by `rate` from a start in [0, 1), pays 1 a step, and ends above 1."""
    options: dict[str, Any] = {
        "initial": lambda key: jax.random.uniform(key, (1,)),
        "step": lambda s, a: s + rate + 0.0 * a,
        "observe": lambda s: s,
        "reward": lambda s: 1.0 + 0.0 * s[0],
        "terminal": lambda s: s[0] > 1.0,
        "action_dim": 1,
        "episode_steps": limit,
    }
    return envs.from_jax(**options | changes)


def reference(env: Env, agent: Agent, key: Any, episodes: int, *, explore: bool) -> Any:
    """A plain loop over a fixed number of decisions, all random numbers split ahead."""
    vector = VectorEnv(env, episodes)
    step = jax.jit(vector.step)
    act = jax.jit(lambda *args, key: agent.act(*args, key=key, explore=explore))
    reset_key, act_key = jax.random.split(key)
    state, row = vector.reset(reset_key)
    latent = agent.model.rssm.initial(episodes)
    action = jnp.zeros((episodes, env.spec.action_dim))
    rewards, running = [], np.ones(episodes, bool)
    for now in jax.random.split(act_key, env.spec.episode_decisions):
        latent, action = act(latent, row.obs, action, row.is_first, key=now)
        state, row = step(state, action)
        rewards.append(np.where(running, row.reward, 0.0))
        running &= ~np.asarray(row.is_last)
    return np.sum(rewards, axis=0)


@pytest.mark.long
@pytest.mark.parametrize("acting", ["mode", "sample"])
def test_the_player_is_a_plain_loop(acting):
    env = envs.make("toy-target")
    agent, key = agent_for(env), jax.random.key(7)
    played = jax.jit(make_player(env, 3, acting=acting))(agent, key)
    expected = reference(env, agent, key, 3, explore=acting == "sample")
    np.testing.assert_allclose(played.returns[0], expected, rtol=1e-5)
    assert np.all(played.decisions == env.spec.episode_decisions)
    assert not np.any(played.cut_off)


@pytest.mark.long
def test_a_sample_is_no_mode_and_repeats_itself():
    env = envs.make("toy-target")
    agent = agent_for(env)
    score = lambda acting, seed: make_scorer(env, Episodes(4, seed, acting))(agent)[0]
    sample = score("sample", 3).returns
    np.testing.assert_array_equal(score("sample", 3).returns, sample)
    assert not set(sample) & set(score("sample", 4).returns)
    assert not set(sample) & set(score("mode", 3).returns)


def test_it_stops_when_the_last_episode_has_ended():
    """The time limit of 10⁹ decisions is never reached, and takes no memory."""
    env = climbing()
    agent, key = agent_for(env), jax.random.key(0)
    played = jax.jit(make_player(env, 20))(agent, key)
    reset_key, _ = jax.random.split(key)
    starts = VectorEnv(env, 20).reset(reset_key)[1].obs[:, 0]
    lengths = np.floor((1 - np.asarray(starts, np.float64)) / 0.3) + 1
    assert set(lengths) == {1, 2, 3, 4}
    np.testing.assert_array_equal(played.decisions[0], lengths)
    np.testing.assert_array_equal(played.returns[0], lengths)
    assert not np.any(played.cut_off)
    alone = jax.jit(make_evaluate(VectorEnv(env, 20)))(agent, key)
    np.testing.assert_array_equal(alone, lengths)


def test_the_cap_ends_what_would_not_end():
    env = climbing(rate=0.0)
    (score,) = make_scorer(env, Episodes(3, 0, max_decisions=50))(agent_for(env))
    np.testing.assert_array_equal(score.returns, [50.0] * 3)
    assert score.cut_off.all() and score.record()["cut_off"] == 3
    assert str(score).endswith("(3 episodes, 3 cut off after 50 decisions)")


def test_only_what_had_not_ended_is_cut_off():
    env = climbing()
    agent = agent_for(env)
    (free,) = make_scorer(env, Episodes(20, 0))(agent)
    (score,) = make_scorer(env, Episodes(20, 0, max_decisions=2))(agent)
    np.testing.assert_array_equal(score.decisions, np.minimum(free.decisions, 2))
    np.testing.assert_array_equal(score.cut_off, free.decisions > 2)
    assert 0 < score.cut_off.sum() < 20


def test_an_episode_that_ends_at_the_cap_is_whole():
    env = climbing(limit=8, rate=0.0)
    (score,) = make_scorer(env, Episodes(2, 0, max_decisions=8))(agent_for(env))
    assert not score.cut_off.any() and "cut off" not in str(score)
    assert score.decisions.tolist() == [8, 8]


def test_agents_side_by_side_stop_each_at_their_own_end():
    """Mapped over agents, as with `--seeds`: one is done long before the other."""
    env = climbing(step=lambda s, a: s + 0.05 + 0.04 * a)
    agents = [agent_for(env, seed) for seed in (0, 1)]
    keys = jax.random.split(jax.random.key(0), 2)
    play = make_player(env, 1, acting="sample")
    alone = [jax.jit(play)(a, k) for a, k in zip(agents, keys, strict=True)]
    both = jax.jit(jax.vmap(play))(jax.tree.map(lambda *x: jnp.stack(x), *agents), keys)
    lengths = [int(played.decisions[0, 0]) for played in alone]
    assert lengths[0] != lengths[1]
    assert both.decisions[:, 0, 0].tolist() == lengths
    assert both.returns[:, 0, 0].tolist() == lengths


def test_the_policy_of_an_evaluation_is_that_of_the_authors():
    policy = {
        name: parse(["--preset", name], "cpu").eval_policy
        for name in ("gpld", "dreamerv3", "jacreg", "laptop", "smoke")
    }
    assert policy == {
        "gpld": "sample",
        "dreamerv3": "sample",
        "jacreg": "sample",
        "laptop": "mode",
        "smoke": "mode",
    }


def test_a_score_of_nothing_cut_off_is_as_it_was():
    score = Score(np.array([1.0, 3.0]), np.array([5, 5]), np.zeros(2, bool))
    assert str(score) == "return 2.0 ± 1.0, min 1.0, max 3.0 (2 episodes)"
