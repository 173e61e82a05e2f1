"""The penalty of the recurrent map, against its full Jacobian."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.penalty import (
    PenaltyOptions,
    dynamics_penalty,
    recurrent_norm,
    recurrent_penalty,
)
from core.rssm import RSSM, State
from core.transition import Transition

pytestmark = pytest.mark.usefixtures("quick_compiles")

ACTION = 2

make_rssm = jax.jit(
    partial(RSSM, 3, ACTION, deter=8, hidden=4, categoricals=2, classes=3, blocks=2)
)


@pytest.fixture
def rssm(getkey):
    return make_rssm(key=getkey())


@pytest.fixture
def states(getkey):
    deter = jax.random.normal(getkey(), (5, 8))
    return State(deter, jax.nn.softmax(jax.random.normal(getkey(), (5, 2, 3))))


@partial(jax.jit, static_argnames="carry")
def core_jacobian(rssm, state, action, carry):
    kept = None if carry else state.deter
    return jax.jacrev(lambda s: rssm.recurrent(s, action, kept=kept))(state)


def jacobian_norm(rssm, state, action, carry):
    """‖J‖_F by `jacrev` of a core whose direct path is subtracted where asked."""
    jacobian = core_jacobian(rssm, state, action, carry)
    return np.sqrt(sum(float(jnp.sum(j**2)) for j in jax.tree.leaves(jacobian)))


@pytest.mark.parametrize("carry", [True, False])
def test_all_sign_vectors_give_the_frobenius_norm(rssm, states, carry):
    signs = jnp.array(list(itertools.product([-1.0, 1.0], repeat=8)))
    state = jax.tree.map(lambda x: x[0], states)
    action = jnp.array([0.3, -0.8])
    norm = jax.jit(partial(recurrent_norm, carry=carry))
    found = norm(rssm, state, action, signs)
    expected = jacobian_norm(rssm, state, action, carry)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_carry_is_the_gate_times_the_old_state(rssm, states):
    """J with the carry minus J without it is diag(1 − u), which lies in (0, 1)."""
    state = jax.tree.map(lambda x: x[0], states)
    action = jnp.zeros(ACTION)

    @jax.jit
    def jacobian(kept):
        return jax.jacrev(
            lambda h: rssm.recurrent(State(h, state.stoch), action, kept=kept)
        )(state.deter)

    direct = np.asarray(jacobian(None) - jacobian(state.deter))
    np.testing.assert_allclose(direct, np.diag(np.diag(direct)), atol=1e-6)
    assert np.all(np.diag(direct) > 0) and np.all(np.diag(direct) < 1)


def test_probes_are_unbiased_for_the_square(rssm, states, getkey):
    actions = jnp.zeros((5, ACTION))
    penalty = jax.jit(partial(recurrent_penalty, probes=4000))
    squares = penalty(rssm, states, actions, key=getkey()) ** 2
    expected = [
        jacobian_norm(rssm, jax.tree.map(lambda x: x[i], states), actions[i], True)  # noqa: B023
        ** 2
        for i in range(5)
    ]
    # One probe's relative deviation is at most about 1: 5 % is 3 standard errors.
    np.testing.assert_allclose(squares, expected, rtol=0.05)


def test_the_gradient_also_flows_through_the_kept_state(rssm, states):
    """Without the carry h still acts on the penalty as more than a constant."""
    state = jax.tree.map(lambda x: x[0], states)
    signs = jnp.ones((1, 8))

    @jax.jit
    def norm(s):
        return recurrent_norm(rssm, s, jnp.zeros(ACTION), signs, carry=False)

    gradient = jax.jit(jax.grad(norm))(state)
    step = 1e-3
    bumped = State(state.deter.at[1].add(step), state.stoch)
    lowered = State(state.deter.at[1].add(-step), state.stoch)
    slope = (norm(bumped) - norm(lowered)) / (2 * step)
    np.testing.assert_allclose(gradient.deter[1], slope, rtol=2e-2, atol=1e-4)


def observe(rssm, is_first, getkey):
    """Random rows, and what the RSSM makes of them."""
    time = len(is_first)
    embeds = jax.random.normal(getkey(), (time, 3))
    batch = Transition(
        jnp.zeros((time, 1)),
        jax.random.normal(getkey(), (time, ACTION)),
        jnp.zeros(time),
        jnp.array(is_first),
        jnp.zeros(time, bool),
        jnp.zeros(time, bool),
    )
    _, observed = jax.jit(RSSM.observe)(
        rssm, rssm.initial(), embeds, batch.action, batch.is_first, key=getkey()
    )
    return observed, embeds, batch


@pytest.mark.parametrize(("probes", "carry"), [(None, True), (3, False)])
def test_steps_into_a_new_episode_do_not_count(rssm, probes, carry, getkey):
    """With one transition inside an episode, the mean is that transition's norm."""
    rows = observe(rssm, [True, True, False, True], getkey)
    key = getkey()
    options = PenaltyOptions(target="core", rho=1.0, probes=probes, core_carry=carry)
    found = jax.jit(partial(dynamics_penalty, options=options))(rssm, *rows, key=key)
    states = jax.tree.map(lambda x: x[:-1], rows[0].states)
    _, probe_key = jax.random.split(key)
    norms = jax.jit(partial(recurrent_penalty, probes=probes or 1, carry=carry))(
        rssm, states, rows[2].action[1:], key=probe_key
    )
    np.testing.assert_allclose(found["core"], norms[1], rtol=1e-5)


def test_without_a_step_inside_an_episode_it_is_zero(rssm, getkey):
    rows = observe(rssm, [True, True, True], getkey)
    options = PenaltyOptions(target="core", rho=1.0)
    found = jax.jit(partial(dynamics_penalty, options=options))(
        rssm, *rows, key=getkey()
    )
    assert found["core"] == 0


def test_the_sum_over_sampled_steps_may_be_divided_by_all(rssm, getkey):
    """normalization="batch": 2 of 3 steps are drawn, ⌊0.7·3⌋."""
    rows, key = observe(rssm, [True, False, False, False], getkey), getkey()
    run = lambda options: dynamics_penalty(rssm, *rows, key=key, options=options)
    by_name = lambda name: run(
        PenaltyOptions(target="core", rho=0.7, normalization=name)
    )
    sampled, batch = jax.jit(lambda: [by_name("sampled"), by_name("batch")])()
    assert sampled["core"] > 0
    np.testing.assert_allclose(batch["core"], sampled["core"] * 2 / 3, rtol=1e-6)
