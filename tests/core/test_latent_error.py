"""The exogenous latent error: its process, and where it enters the model."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forms import OBSERVE

from core.agent import Agent
from core.latent_error import LatentError, zero_drift
from core.rssm import RSSM, State
from core.sizes import ModelSize
from core.transition import Transition
from core.world_model import WorldModel, world_model_loss

TIME, BATCH, EMBED, ACTION = 5, 3, 5, 2
DRIFT = LatentError((0.0, 5.0), (0.0, 5.0))
TINY = ModelSize(units=8, deter=12, hidden=6, stoch=3, classes=4, blocks=3)


@pytest.fixture
def rssm(getkey):
    sizes: dict[str, Any] = {
        "deter": 12,
        "hidden": 6,
        "categoricals": 3,
        "classes": 4,
        "blocks": 3,
    }
    return RSSM(EMBED, ACTION, key=getkey(), **sizes)


@pytest.fixture
def sequence(rssm, getkey):
    is_first = np.zeros((TIME, BATCH), bool)
    is_first[2, 1] = True
    start = State(
        jax.random.normal(getkey(), (BATCH, 12)),
        jax.nn.one_hot(jnp.array([[0, 1, 2]] * BATCH), 4),
    )
    embeds = jax.random.normal(getkey(), (TIME, BATCH, EMBED))
    actions = jax.random.uniform(getkey(), (TIME, BATCH, ACTION), minval=-1)
    return start, embeds, actions, jnp.asarray(is_first)


@pytest.fixture
def errors(getkey):
    return DRIFT.draw(getkey(), jnp.zeros((TIME, BATCH, 3, 4)))


def test_the_zero_drift_process_has_the_mean_and_variance_asked_for():
    drawn = zero_drift(5.0).draw(jax.random.key(0), jnp.zeros((2000, 4, 32, 4)))
    count = drawn.size
    # Five standard errors of the mean and of the variance of that many numbers.
    assert abs(jnp.mean(drawn)) < 5 * np.sqrt(5.0 / count)
    assert abs(jnp.var(drawn) - 5.0) < 5 * 5.0 * np.sqrt(2 / count)
    # No number knows another: of its step, of the step before, of another sequence.
    flat = np.asarray(drawn).reshape(2000, 4, -1)
    for other in (np.roll(flat, 1, 0), np.roll(flat, 1, 1), np.roll(flat, 1, 2)):
        assert abs(np.mean(flat * other)) < 5 * 5.0 / np.sqrt(count)


def test_the_drift_process_is_uniform_in_mean_and_variance():
    """Every step of every sequence has a mean and a variance of its own."""
    drawn = DRIFT.draw(jax.random.key(1), jnp.zeros((500, 8, 32, 4)))
    flat = np.asarray(drawn, np.float64).reshape(500 * 8, -1)
    means, variances = flat.mean(-1), flat.var(-1, ddof=1)
    steps = len(flat)
    for found in (means, variances):
        # U[0, 5]: mean 2.5, standard deviation 5/√12, few outside by sampling alone.
        assert abs(found.mean() - 2.5) < 5 * (5 / np.sqrt(12)) / np.sqrt(steps)
        assert np.mean((found > -0.5) & (found < 6.5)) > 0.99
    # var(mean of 128 numbers) = var(μ) + E σ²/128.
    assert means.var() == pytest.approx(25 / 12 + 2.5 / 128, rel=0.08)
    quarters = np.histogram(means, bins=[-1, 1.25, 2.5, 3.75, 6])[0] / steps
    np.testing.assert_allclose(quarters, 0.25, atol=0.04)
    assert abs(np.corrcoef(means, variances)[0, 1]) < 5 / np.sqrt(steps)
    each = means.reshape(500, 8)
    assert abs(np.corrcoef(each[:-1, 0], each[1:, 0])[0, 1]) < 5 / np.sqrt(499)
    assert abs(np.corrcoef(each[:, 0], each[:, 1])[0, 1]) < 5 / np.sqrt(500)


@pytest.mark.parametrize("form", OBSERVE)
def test_zero_errors_change_no_bit(form, rssm, sequence, getkey):
    key, observe = getkey(), OBSERVE[form]
    plain = observe(rssm, *sequence, key=key)
    zero = zero_drift(0.0).draw(getkey(), jnp.zeros((TIME, BATCH, 3, 4)))
    last, observed = observe(rssm, *sequence, key=key, errors=zero)
    assert observed.drawn is not None
    np.testing.assert_array_equal(observed.drawn, observed.states.stoch)
    chex.assert_trees_all_equal(plain, (last, observed._replace(drawn=None)))


def test_every_step_starts_from_the_noisy_state_of_the_step_before(
    rssm, sequence, errors, getkey
):
    """A loop in which the error is added after each step."""
    key = getkey()
    state, embeds, actions, is_first = sequence
    last, observed = rssm.observe(*sequence, key=key, errors=errors)
    uniforms = jax.random.uniform(key, (TIME, BATCH, 3))
    for t in range(TIME):
        clean, _ = rssm._observe_step(
            state, embeds[t], actions[t], is_first[t], uniforms[t]
        )
        state = State(clean.deter, clean.stoch + errors[t])
        at = lambda tree, t=t: jax.tree.map(lambda x: x[t], tree)
        chex.assert_trees_all_close(at(observed.states), state, rtol=1e-5)
        chex.assert_trees_all_close(at(observed.clean), clean, rtol=1e-5)
    chex.assert_trees_all_close(last, state, rtol=1e-5)


@pytest.mark.parametrize(
    "form",
    [
        pytest.param("block_gru", marks=pytest.mark.long),
        "deferred",
        pytest.param("wide", marks=pytest.mark.long),
    ],
)
def test_every_form_has_the_errors_of_the_definition(
    form, rssm, sequence, errors, getkey
):
    """Values, and gradients in the parameters, the first state and the embeddings."""
    key = getkey()
    weights = []

    def loss(observe, rssm, start, embeds):
        found = observe(rssm, start, embeds, *sequence[2:], key=key, errors=errors)
        leaves = jax.tree.leaves(found)
        if not weights:
            with jax.ensure_compile_time_eval():
                keys = jax.random.split(jax.random.key(3), len(leaves))
                weights.extend(
                    jax.random.normal(k, x.shape)
                    for k, x in zip(keys, leaves, strict=True)
                )
        return sum(jnp.sum(w * x) for w, x in zip(weights, leaves, strict=True))

    results = [
        jax.value_and_grad(
            lambda *args, name=name: loss(OBSERVE[name], *args), argnums=(0, 1, 2)
        )(rssm, *sequence[:2])
        for name in ("definition", form)
    ]
    for x, y in zip(*map(jax.tree.leaves, results), strict=True):
        scale = np.abs(x).max() + 1e-6
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=4e-6 * scale)


def test_errors_of_another_shape_are_refused(rssm, sequence, errors, getkey):
    with pytest.raises(ValueError, match=r"errors has shape \(4, .*must be \(5, 3, 3"):
        OBSERVE["block_gru"](rssm, *sequence, key=getkey(), errors=errors[1:])


@pytest.mark.long
def test_kl_divergences_have_no_error_and_the_heads_do(getkey):
    """In a first step, which no earlier error reaches."""
    model = WorldModel(4, ACTION, key=getkey(), size=TINY)
    rows = Transition(
        jax.random.normal(getkey(), (1, BATCH, 4)),
        jnp.zeros((1, BATCH, ACTION)),
        jnp.ones((1, BATCH)),
        jnp.ones((1, BATCH), bool),
        jnp.zeros((1, BATCH), bool),
        jnp.zeros((1, BATCH), bool),
    )
    key, start = getkey(), model.rssm.initial(BATCH)
    plain = world_model_loss(model, start, rows, key=key)
    started, errors = DRIFT.of_sequence(start, 1, key=key)
    noisy = world_model_loss(model, started, rows._replace(errors=errors), key=key)
    for name in ("dyn", "rep"):
        np.testing.assert_array_equal(plain.losses[name], noisy.losses[name])
    assert np.all(plain.losses["rec"] != noisy.losses["rec"])
    chex.assert_trees_all_equal(plain.observed.states, noisy.observed.clean)


def test_observing_with_error_keeps_the_other_random_numbers(getkey):
    agent = Agent(4, ACTION, key=getkey(), size=TINY)
    state, obs = agent.model.rssm.initial(BATCH), jnp.ones((BATCH, 4))
    given = state, obs, jnp.zeros((BATCH, ACTION)), jnp.ones(BATCH, bool)
    key = getkey()
    plain = agent.observe(*given, key=key)
    same, clean = agent.observe_with_error(*given, key=key, error=zero_drift(0.0))
    chex.assert_trees_all_equal((plain, plain), (same, clean))
    noisy, clean = agent.observe_with_error(*given, key=key, error=DRIFT)
    chex.assert_trees_all_equal(plain, clean)
    np.testing.assert_array_equal(noisy.deter, clean.deter)
    assert np.all(noisy.stoch != clean.stoch)


def test_one_flag_serves_a_whole_batch(getkey):
    agent = Agent(4, ACTION, key=getkey(), size=TINY)
    state, obs = agent.model.rssm.initial(BATCH), jnp.ones((BATCH, 4))
    given, key = (state, obs, jnp.ones((BATCH, ACTION))), getkey()
    each = agent.act(*given, jnp.zeros(BATCH, bool), key=key)
    chex.assert_trees_all_equal(agent.act(*given, False, key=key), each)
