"""The split of a sample budget, measured on a run's own replay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from saved_run import configured, random_state, save_run

from benchmarks.trust.budget.replayed import (
    NotMeasured,
    Rows,
    load_replay,
    observed,
    sequences,
)
from benchmarks.trust.budget.split import decide, split_budget
from benchmarks.trust.budget.students import Effort, Learned, learn, parts
from benchmarks.trust.episodes import predict
from benchmarks.trust.report import budget
from core.rssm import State
from core.theory.allocation import Costs, optimal_allocation
from core.theory.powerlaw import PowerLaw
from train.checkpoint.checkpointer import Checkpointer
from train.preflight.setup import make_env
from train.run_dir import record

pytestmark = pytest.mark.long

ENV = "--env toy-target --steps 10000"
COUNTS = (100, 200, 400, 800)


@pytest.fixture(scope="module")
def run():
    """A run whose full replay has rewards and latents of random numbers."""
    config = configured(ENV)
    state = random_state(config)
    rows = state.replay.rows
    capacity = rows.reward.shape[0]
    number = jnp.arange(capacity, dtype=jnp.float32)[:, None]
    rows = rows._replace(reward=jnp.broadcast_to(number, rows.reward.shape))
    full = state.replay._replace(
        rows=rows, position=jnp.asarray(7), filled=jnp.asarray(capacity)
    )
    return config, state._replace(replay=full)


def test_sequences_do_not_overlap_nor_cross_the_write_position(run):
    buffer = run[1].replay
    capacity, envs = buffer.rows.reward.shape
    corrupt = buffer.rows.is_corrupt.at[30, 1].set(True)
    buffer = buffer._replace(rows=buffer.rows._replace(is_corrupt=corrupt))
    found = sequences(buffer, length=4, most=10**6, seed=0).reward
    # The reward is the row's number; the oldest row is 7.
    age = (found - 7) % capacity
    assert (np.diff(age, axis=0) == 1).all()
    assert found.shape == (5, envs * (capacity // 5) - 1)
    assert np.bincount(found.astype(int).ravel()).max() <= envs
    few = sequences(buffer, length=4, most=3, seed=0).reward
    np.testing.assert_array_equal(few, found[:, :3])


def test_steps_into_a_first_one_are_not_valid(run):
    state = run[1]
    rows = sequences(state.replay, length=4, most=6, seed=0)
    first = np.zeros((5, 6), bool)
    first[2, 3] = True
    found = observed(
        state.learner.agent, rows._replace(is_first=first), jax.random.key(0)
    )
    assert found.valid.shape == (4, 6) and not found.valid[1, 3]
    assert int(found.valid.sum()) == 23
    np.testing.assert_array_equal(found.reward, rows.reward[1:])
    without = rows._replace(is_first=first, deter=None, stoch=None)
    found = observed(state.learner.agent, without, jax.random.key(0))
    assert not found.valid[0].any() and found.valid[2:].all()


def laws(dynamics, reward, effects=(3.0, 0.5), noise=0.0):
    """Students that follow power laws, with effects proportional to errors."""
    rng = np.random.default_rng(0)
    found = {}
    for name, (scale, exponent), effect in zip(
        ("dynamics", "reward"), (dynamics, reward), effects, strict=True
    ):
        n = np.asarray(COUNTS, float)[:, None]
        error = scale * n**-exponent * np.exp(noise * rng.normal(size=(len(n), 3)))
        found[name] = Learned(error, effect * error)
    return found


def test_the_split_is_that_of_theorem_1():
    found = decide(COUNTS, laws((2.0, 0.3), (5.0, 0.5), noise=0.02))
    exact = decide(COUNTS, laws((2.0, 0.3), (5.0, 0.5)))
    wanted = optimal_allocation(
        PowerLaw(2.0, 0.3),
        PowerLaw(5.0, 0.5),
        unit="rmse",
        multiplier=6.0,
        costs=Costs(1.0, 1.0),
        budget=800.0,
    ).ratio
    assert exact["kappa"] == pytest.approx(6.0)
    assert exact["ratio"] == pytest.approx(wanted, rel=1e-6)
    assert exact["low"] == pytest.approx(exact["high"])
    assert found["ratio"] == pytest.approx(wanted, rel=0.1)
    assert found["low"] < found["ratio"] < found["high"]
    assert f"{exact['ratio']:.2g} [" in budget(exact)


def test_a_split_outside_of_what_was_fitted_is_called_so():
    far = decide(COUNTS, laws((2.0, 0.3), (5.0, 0.5), effects=(300.0, 0.01)))
    assert far["extrapolated"] and "below the counts that were fitted" in budget(far)
    near = decide(COUNTS, laws((2.0, 0.3), (2.0, 0.3), effects=(1.0, 1.0)))
    assert not near["extrapolated"] and near["ratio"] == pytest.approx(1.0)


def test_errors_that_do_not_fall_give_no_number():
    for dynamics, noise in (((2.0, 0.0), 0.02), ((2.0, -0.2), 0.0), ((2.0, 0.1), 0.5)):
        found = decide(COUNTS, laws(dynamics, (5.0, 0.5), noise=noise))
        assert "ratio" not in found
        assert "errors of dynamics are no power law (exponent" in budget(found)


def made_up(agent, shape, seed=0):
    """Rows whose reward depends on one direction of h; no first steps."""
    rng = np.random.default_rng(seed)
    rssm = agent.model.rssm
    factor = rng.uniform(-1, 1, size=(*shape, 1))
    deter = factor + 0.01 * rng.normal(size=(*shape, rssm.deter))
    deter[..., ::2] += 1.0 - factor
    deter = jnp.asarray(deter, jnp.float32)
    reward = jnp.asarray(np.sin(3 * factor[..., 0]), jnp.float32)
    return Rows(deter, rssm.prior_logits(deter), reward, jnp.ones(shape, bool))


def test_a_student_learns_more_from_more_samples(run):
    agent = run[1].learner.agent
    learned = learn(
        parts(agent)["reward"],
        made_up(agent, (1000,)),
        made_up(agent, (5, 100), seed=1),
        counts=(2, 1000),
        discount=0.9,
        effort=Effort(seeds=2, rounds=2, updates=1000),
        key=jax.random.key(0),
    )
    assert learned.error.shape == learned.effect.shape == (2, 2)
    assert (learned.error[1] < 0.5 * learned.error[0]).all()
    assert (learned.effect[1] < 0.5 * learned.effect[0]).all()


def test_errors_and_effects_of_the_agents_own_heads(run):
    """The posterior is the agent's own prior here: dynamics have no error."""
    agent = run[1].learner.agent
    rows, rssm = made_up(agent, (4, 6)), agent.model.rssm
    found = parts(agent)
    own = rssm.prior_in, rssm.prior_out
    np.testing.assert_allclose(found["dynamics"].squared(own, rows), 0, atol=1e-10)
    np.testing.assert_allclose(found["dynamics"].effect(own, rows), 0, atol=1e-4)
    other = rows._replace(
        posterior=np.asarray(rows.posterior) + np.arange(4.0, dtype=np.float32)
    )
    z = [rssm.dist(each.posterior).mean() for each in (other, rows)]
    worth = lambda z: predict(agent, State(rows.deter, z))
    one, two = (h.reward + h.discount * h.value for h in map(worth, z))
    np.testing.assert_allclose(
        found["dynamics"].effect(own, other), one - two, rtol=1e-3, atol=1e-3
    )
    squares = jnp.sum(jnp.square(z[0] - z[1]), axis=(-2, -1))
    np.testing.assert_allclose(found["dynamics"].squared(own, other), squares, 1e-4)
    left = rows.reward - worth(z[1]).reward
    np.testing.assert_allclose(found["reward"].effect(agent.model.reward, rows), left)


def test_what_cannot_be_measured_is_said_in_one_line(run, tmp_path, monkeypatch):
    config, state = run
    env = make_env(config)
    agent = state.learner.agent
    saved = save_run(tmp_path / "run", config, state)
    found = load_replay(saved, config, env, 0)
    np.testing.assert_array_equal(found.rows.reward, state.replay.rows.reward)
    same = state.replay._replace(
        rows=state.replay.rows._replace(reward=jnp.ones_like(found.rows.reward))
    )
    empty = state.replay._replace(filled=jnp.asarray(40))
    for replay, said in ((same, "all rewards"), (empty, "are needed")):
        assert Checkpointer(saved).save(500, state._replace(replay=replay), {})
        refused = split_budget(saved, config, env, agent, counts=(16, 32, 64))
        assert said in refused["refused"]
        line = budget(refused)
        assert line.startswith("split of a sample budget: not measured, as")
        assert "\n" not in line
    alone = tmp_path / "alone"
    alone.mkdir()
    record.write(config, alone / "config.json")
    with pytest.raises(NotMeasured, match="agents alone"):
        load_replay(alone, config, env, 0)
    monkeypatch.setattr("benchmarks.trust.budget.replayed.LARGEST_BYTES", 1000)
    with pytest.raises(NotMeasured, match="too large"):
        load_replay(saved, config, env, 0)
