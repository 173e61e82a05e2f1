"""Collecting: corrupt first rows are counted, and never reach a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from toy_run import assert_finite, configured, vector_env

import envs
from core.agent import Agent
from core.sizes import ModelSize
from train.preflight import setup
from train.program import replay
from train.program.chunk import Schedule, make_prefill
from train.program.collect import collect
from train.program.state import init_run
from train.rollout.player import make_player

TINY = ModelSize(units=8, deter=16, hidden=8, stoch=4)


def make(*, name, action_repeat):
    """Two in three episodes begin with an observation, or in a state, that is NaN."""
    return envs.from_jax(
        initial=lambda key: {
            "kind": jax.random.randint(key, (), 0, 3),
            "x": jnp.where(jax.random.randint(key, (), 0, 3) == 1, jnp.nan, 0.5),
        },
        step=lambda s, a: s | {"x": s["x"] + 0.1},
        observe=lambda s: jnp.where(s["kind"] == 2, jnp.nan, s["x"])[None],
        reward=lambda s: 1.0,
        action_dim=1,
        name=name,
        action_repeat=action_repeat,
        episode_steps=6,
    )


@pytest.fixture(scope="module")
def collected():
    config = configured(f"--env {__name__}:make")
    env = envs.VectorEnv(setup.make_env(config), config.num_envs)
    run = init_run(config, env, jax.random.key(0))
    ran = jax.jit(
        lambda run, key: collect(
            config,
            env,
            run.learner.agent,
            (run.collector, run.replay),
            jax.random.split(key, 60),
        )
    )
    (collector, buffer), episodes = ran(run, jax.random.key(1))
    return config, collector, buffer, episodes


def test_corrupt_first_rows_are_counted_and_are_no_episodes(collected):
    _, collector, buffer, episodes = collected
    rows = jax.tree.map(lambda x: np.asarray(x[: buffer.filled]), buffer.rows)
    bad, first = rows.is_corrupt, rows.is_first
    assert np.sum(bad) > 10 and np.all(first[bad]) and np.all(rows.is_last[bad])
    # One row was seen after the last that was written, and the first ones were drawn
    # before: by the counter in the environments' own states, which has them all.
    newest = collector.timestep.is_corrupt
    assert np.sum(bad) + np.sum(newest) == np.sum(collector.env_state.corrupt_count)
    assert episodes.corrupt == np.sum(bad[1:]) + np.sum(newest)
    ends = np.sum((rows.is_last & ~first)[1:])
    ends += np.sum(collector.timestep.is_last & ~collector.timestep.is_first)
    assert episodes.count == ends and ends > 5
    assert episodes.return_sum == 6 * ends  # each of six control steps
    decisions = np.sum(~first[1:]) + np.sum(~collector.timestep.is_first)
    assert collector.decisions == decisions


def test_latent_states_after_corrupt_rows_are_those_of_a_beginning(collected):
    _, collector, buffer, _ = collected
    assert_finite((buffer, collector.latent, collector.timestep))
    rows = jax.tree.map(lambda x: np.asarray(x[: buffer.filled]), buffer.rows)
    after = rows.is_corrupt[:-1]
    assert np.all(rows.is_first[1:][after])


def test_windows_with_corrupt_first_rows_are_never_drawn(collected):
    _, _, buffer, _ = collected
    rows, window = replay.sample(buffer, batch=500, length=3, key=jax.random.key(2))
    assert np.sum(window.usable) > 100 and not np.any(rows.is_corrupt)
    assert np.all(np.isfinite(rows.reward)) and np.all(np.isfinite(rows.obs))
    assert np.any(rows.is_first[1:])  # episodes that begin soundly are drawn


def test_an_evaluated_episode_that_begins_with_nan_is_over():
    env = make(name="nan", action_repeat=2)
    agent = Agent(1, 1, key=jax.random.key(0), size=TINY)
    played = make_player(env, 64, acting="random")(agent, jax.random.key(0))
    bad = played.decisions[0] == 0
    assert 20 < np.sum(bad) < 60 and not np.any(played.cut_off)
    np.testing.assert_array_equal(played.returns[0], np.where(bad, 0.0, 6.0))


@pytest.mark.parametrize(("who", "uniform"), [("random", True), ("agent", False)])
def test_prefill_by_random_actions(who, uniform):
    config = configured(
        f"--prefill-policy {who} --prefill 400 --num-envs 8 --steps 1000"
    )
    env = vector_env(config)
    run = init_run(config, env, jax.random.key(0))
    run, _ = jax.jit(make_prefill(config, env, Schedule.of(config)))(run)
    rows = jax.tree.map(lambda x: np.asarray(x)[: run.replay.filled], run.replay.rows)
    # The action before the first row of an episode is none of a policy's.
    actions = rows.action[~rows.is_first].ravel()
    assert len(actions) > 300
    assert (stats.kstest(actions, stats.uniform(-1, 2).cdf)[1] > 0.01) == uniform
