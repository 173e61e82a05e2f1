"""The RSSM, part by part, against an independent float64 computation in numpy.

The reference loops over the blocks of the GRU one at a time, where the RSSM cuts and
regroups its weights.
"""

import functools
import inspect

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forms import OBSERVE as FORMS
from reference import dense, filled, linear, rssm_core, softmax, wide

from core.loops import block_gru, wide_gru
from core.rssm import RSSM, State

pytestmark = pytest.mark.usefixtures("quick_compiles")

DETER, HIDDEN, K, CLASSES, BLOCKS = 12, 5, 3, 4, 3
EMBED, ACTION = 6, 2
LENGTH, BATCH = 6, 4


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def build_rssm(unimix=0.01):
    return functools.partial(
        RSSM,
        EMBED,
        ACTION,
        deter=DETER,
        hidden=HIDDEN,
        categoricals=K,
        classes=CLASSES,
        blocks=BLOCKS,
        unimix=unimix,
    )


@pytest.fixture(scope="module")
def rssm():
    return filled(build_rssm(), 1)


@functools.partial(jax.jit, static_argnums=1)
def make_state(key, batch=()):
    deter_key, stoch_key = jax.random.split(key)
    index = jax.random.randint(stoch_key, (*batch, K), 0, CLASSES)
    deter = jnp.tanh(jax.random.normal(deter_key, (*batch, DETER)))
    return State(deter, jax.nn.one_hot(index, CLASSES))


def make_sequence(getkey):
    """Embeddings, actions (some beyond ±1) and starts of episodes."""
    embeds = jax.random.normal(getkey(), (LENGTH, BATCH, EMBED))
    actions = 1.5 * jax.random.normal(getkey(), (LENGTH, BATCH, ACTION))
    is_first = np.zeros((LENGTH, BATCH), bool)
    is_first[0, 0] = is_first[3, 1] = is_first[2, 2] = is_first[4, 2] = True
    return embeds, actions, jnp.asarray(is_first)


# The definition, and the layout that training uses.
RECURRENT = pytest.mark.parametrize("map_", [RSSM.recurrent, block_gru.recurrent])
OBSERVE = pytest.mark.parametrize(
    "observe", [FORMS[x] for x in ("definition", "block_gru", "wide")]
)
IMAGINE = pytest.mark.parametrize(
    "imagine", [RSSM.imagine, block_gru.imagine, wide_gru.imagine]
)

# The reference


core = functools.partial(rssm_core, blocks=BLOCKS)


def as_rows(flat):
    return flat.reshape(*flat.shape[:-1], K, CLASSES)


def posterior(rssm, deter, embed):
    u = np.concatenate([wide(deter), wide(embed)], -1)
    return as_rows(linear(rssm.posterior_out, dense(rssm.posterior_in, u)))


def prior(rssm, deter):
    hidden = dense(rssm.prior_in[1], dense(rssm.prior_in[0], deter))
    return as_rows(linear(rssm.prior_out, hidden))


def assert_close(got, wanted, tolerance=2e-5):
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


def assert_onehot(stoch):
    np.testing.assert_allclose(np.sort(stoch, -1)[..., :-1], 0, atol=1e-6)
    np.testing.assert_allclose(np.max(stoch, -1), 1, atol=1e-6)


# One step


def test_blocks_must_divide_the_state(getkey):
    with pytest.raises(ValueError, match=r"blocks=5.*deter=12"):
        RSSM(EMBED, ACTION, key=getkey(), deter=12, blocks=5)


@RECURRENT
@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_recurrent_map_equals_the_loop_over_blocks(rssm, batch, map_, getkey):
    state = make_state(getkey(), batch)
    action = 1.5 * jax.random.normal(getkey(), (*batch, ACTION))
    following = jax.jit(map_)(rssm, state, action)
    assert_close(following, core(rssm, state.deter, state.stoch, action))


@RECURRENT
def test_gates_are_laid_out_block_by_block(map_):
    """All weights at 0: every gate is its bias, in the order documented here."""
    build = functools.partial(
        RSSM, 1, 1, deter=4, hidden=2, categoricals=1, classes=2, blocks=2
    )
    rssm = jax.tree.map(jnp.zeros_like, filled(build, 0))
    closed, opened = -60.0, 60.0
    # Per block: two reset, two candidate, two update gates.
    bias = jnp.array(
        [closed, opened, 2.0, 3.0, opened, opened] + [0.0, 0.0, 1.0, -1.0, closed, 1.0]
    )
    rssm = eqx.tree_at(lambda r: r.gates.bias, rssm, bias)
    state = State(jnp.array([0.1, 0.2, 0.3, 0.4]), jnp.zeros((1, 2)))
    # The reset gate scales the candidate; sigmoid(1 − 1) = 1/2 of h 0.4 is kept.
    wanted = [0, np.tanh(3), 0.3, 0.5 * np.tanh(-0.5) + 0.5 * 0.4]
    np.testing.assert_allclose(map_(rssm, state, jnp.zeros(1)), wanted, atol=1e-6)


@RECURRENT
def test_update_gate_starts_mostly_closed(rssm, map_, getkey):
    zeros = jax.tree.map(jnp.zeros_like, rssm)
    state = make_state(getkey(), (2,))
    kept = np.exp(1) / (1 + np.exp(1))  # 1 − sigmoid(−1)
    following = jax.jit(map_)(zeros, state, jnp.zeros((2, ACTION)))
    assert_close(following, kept * wide(state.deter))


def test_posterior_and_prior_logits(rssm, getkey):
    state = make_state(getkey(), (2, 3))
    embed = jax.random.normal(getkey(), (2, 3, EMBED))
    logits = jax.jit(RSSM.posterior_logits)(rssm, state.deter, embed)
    assert_close(logits, posterior(rssm, state.deter, embed))
    prior_logits = jax.jit(RSSM.prior_logits)(rssm, state.deter)
    assert_close(prior_logits, prior(rssm, wide(state.deter)))
    dist = rssm.dist(logits)
    assert_close(dist.probs, 0.99 * softmax(wide(logits)) + 0.01 / CLASSES)


def test_features_are_deter_then_flat_stoch():
    stoch = jnp.arange(6.0).reshape(1, 2, 3)
    features = State(jnp.array([[-1.0, -2.0]]), stoch).features
    np.testing.assert_array_equal(features, [[-1, -2, 0, 1, 2, 3, 4, 5]])


def test_initial_state_is_zero(rssm):
    state = rssm.initial(2, 3)
    assert state.deter.shape == (2, 3, DETER)
    assert state.stoch.shape == (2, 3, K, CLASSES)
    assert not jnp.any(state.features)


# Sequences


@OBSERVE
def test_observe_step_by_step(rssm, observe, getkey):
    """Every step recomputed from the state the RSSM itself reports before it."""
    initial = make_state(getkey(), (BATCH,))
    embeds, actions, is_first = make_sequence(getkey)
    last, observed = jax.jit(observe)(
        rssm, initial, embeds, actions, is_first, key=getkey()
    )
    deters, stochs = observed.states
    assert_onehot(stochs)
    deter, stoch = wide(initial.deter), wide(initial.stoch)
    for t in range(LENGTH):
        keep = ~np.asarray(is_first[t])
        deter, stoch = deter * keep[:, None], stoch * keep[:, None, None]
        deter = core(rssm, deter, stoch, wide(actions[t]) * keep[:, None])
        stoch = wide(stochs[t])
        assert_close(deters[t], deter)
        assert_close(observed.posterior[t], posterior(rssm, deter, embeds[t]))
        u = np.concatenate([deter, wide(embeds[t])], -1)
        assert_close(observed.preactivation[t], linear(rssm.posterior_in.linear, u))
    np.testing.assert_array_equal(last.deter, deters[-1])
    np.testing.assert_array_equal(last.stoch, stochs[-1])


@OBSERVE
def test_nothing_before_a_first_row_matters(rssm, observe, getkey):
    key = getkey()
    embeds, actions, is_first = make_sequence(getkey)
    # The action that led to row 3 of environment 1 belongs to the episode before.
    other = actions.at[:4, 1].add(1.0), embeds.at[:3, 1].add(1.0)
    observe = jax.jit(observe)
    _, one = observe(
        rssm, make_state(getkey(), (BATCH,)), embeds, actions, is_first, key=key
    )
    _, two = observe(
        rssm, make_state(getkey(), (BATCH,)), other[1], other[0], is_first, key=key
    )
    assert not np.allclose(one.posterior[:3, 1], two.posterior[:3, 1])
    of = lambda tree, index: jax.tree.map(lambda x: x[index], tree)
    for index in (np.s_[3:, 1], np.s_[:, 0]):  # the latter begins an episode itself
        chex.assert_trees_all_equal(of(one, index), of(two, index))


@OBSERVE
def test_observe_equals_repeated_observe_step(observe, getkey):
    rssm = filled(build_rssm(unimix=0.0), 1)

    # Logits this far apart leave the sample no choice, whatever the random numbers.
    def sharp(r):
        return r.posterior_out.weight

    rssm = eqx.tree_at(sharp, rssm, 1e6 * rssm.posterior_out.weight)
    embeds, actions, is_first = make_sequence(getkey)
    state = make_state(getkey(), (BATCH,))
    _, observed = jax.jit(observe)(rssm, state, embeds, actions, is_first, key=getkey())
    step = jax.jit(RSSM.observe_step)
    for t in range(LENGTH):
        state = step(rssm, state, embeds[t], actions[t], is_first[t], key=getkey())
        assert_close(state.deter, observed.states.deter[t])
        assert_close(state.stoch, observed.states.stoch[t])


def test_posterior_samples_follow_the_posterior(rssm, getkey):
    """Many copies of one sequence, each with its own sample."""
    total = 4000

    def repeat(x):
        return jnp.broadcast_to(x, (1, total, *x.shape))

    initial = jax.tree.map(lambda x: repeat(x)[0], make_state(getkey()))
    embeds = repeat(jax.random.normal(getkey(), (EMBED,)))
    actions = repeat(jax.random.normal(getkey(), (ACTION,)))
    is_first = jnp.zeros((1, total), bool)
    _, observed = jax.jit(RSSM.observe)(
        rssm, initial, embeds, actions, is_first, key=getkey()
    )
    probs = 0.99 * softmax(wide(observed.posterior[0, 0])) + 0.01 / CLASSES
    share = wide(observed.states.stoch[0]).mean(0)
    assert (np.abs(share - probs) <= 3 * np.sqrt(probs * (1 - probs) / total)).all()


def test_gradient_passes_through_the_samples(rssm, getkey):
    """Of one observed step: that of the class probabilities in the sample's place."""
    state = make_state(getkey(), (BATCH,))
    embeds, actions, is_first = make_sequence(getkey)
    weights = jax.random.normal(getkey(), (BATCH, K, CLASSES))
    first = embeds[0], actions[0], is_first[0]

    def sampled(embed):
        stoch = rssm.observe_step(state, embed, *first[1:], key=key).stoch
        return jnp.sum(weights * stoch)

    def mean(embed):
        deter = rssm.observe_step(state, embed, *first[1:], key=key).deter
        logits = rssm.posterior_logits(deter, embed)
        return jnp.sum(weights * rssm.dist(logits).probs)

    key = getkey()
    gradients = jax.jit(lambda embed: (jax.grad(sampled)(embed), jax.grad(mean)(embed)))
    got, wanted = gradients(first[0])
    assert jnp.any(wanted != 0)
    assert_close(got, wanted)


# Imagination


def act(state, key):
    noise = jax.random.normal(key, (*state.deter.shape[:-1], ACTION))
    action = 2 * state.deter[..., :ACTION] + noise
    return action, (state, action)


@IMAGINE
def test_imagine_follows_the_recurrent_map_and_the_policy(rssm, imagine, getkey):
    start = make_state(getkey(), (BATCH,))
    length = 5
    last, (states, actions) = jax.jit(functools.partial(imagine, act=act))(
        rssm,
        start,
        inputs=jax.random.split(getkey(), length),
        uniforms=jax.random.uniform(getkey(), (length, BATCH, K)),
    )
    assert states.deter.shape == (length, BATCH, DETER)
    assert states.stoch.shape == (length, BATCH, K, CLASSES)
    assert actions.shape == (length, BATCH, ACTION)
    np.testing.assert_array_equal(states.deter[0], start.deter)
    np.testing.assert_array_equal(states.stoch[0], start.stoch)
    assert_onehot(states.stoch)
    assert_onehot(last.stoch)
    following = [*states.deter[1:], last.deter]
    for t in range(length):
        wanted = core(rssm, states.deter[t], states.stoch[t], actions[t])
        assert_close(following[t], wanted)
    # Every action answers its own state, with noise of its own.
    noise = wide(actions) - 2 * wide(states.deter[..., :ACTION])
    assert noise.std() > 0.5
    assert len(np.unique(noise.round(4))) == noise.size


def test_imagined_samples_follow_the_prior(rssm, getkey):
    total = 4000
    start = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (total, *x.shape)), make_state(getkey())
    )

    def still(state, key):
        return jnp.zeros((total, ACTION)), None

    last, _ = jax.jit(functools.partial(RSSM.imagine, act=still))(
        rssm,
        start,
        inputs=None,
        uniforms=jax.random.uniform(getkey(), (1, total, K)),
    )
    logits = prior(rssm, wide(last.deter[0]))
    probs = 0.99 * softmax(logits) + 0.01 / CLASSES
    share = wide(last.stoch).mean(0)
    assert (np.abs(share - probs) <= 3 * np.sqrt(probs * (1 - probs) / total)).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"embeds": (2, 5, 6)}, r"embeds has shape \(2, 5, 6\).* must be \(5, 2, 6\)"),
        ({"embeds": (5, 2, 7)}, r"must be \(5, 2, 6\)"),
        ({"actions": (5, 2, 4)}, r"actions has shape .* must be \(5, 2, 3\)"),
        ({"state": (4,)}, r"batch of shape \(4,\), .*use initial\(2\)"),
        ({"is_first": jnp.float32}, "dtype float32: it must be bool"),
    ],
)
@OBSERVE
def test_sequences_that_do_not_fit(change, said, observe, getkey):
    rssm = RSSM(6, 3, key=getkey(), deter=16, hidden=8, categoricals=2, classes=3)
    state = rssm.initial(*change.get("state", (2,)))
    embeds = jnp.zeros(change.get("embeds", (5, 2, 6)))
    actions = jnp.zeros(change.get("actions", (5, 2, 3)))
    is_first = jnp.zeros((5, 2), change.get("is_first", bool))
    observe = inspect.unwrap(observe)  # the checks of types come first in tests
    with pytest.raises(ValueError, match=said):
        observe(rssm, state, embeds, actions, is_first, key=getkey())


@IMAGINE
def test_a_batch_is_imagined_with_numbers_of_its_own(imagine, getkey):
    rssm = RSSM(6, 3, key=getkey(), deter=16, hidden=8, categoricals=2, classes=3)
    act = lambda state, _: (jnp.zeros((4, 3)), state)
    with pytest.raises(
        ValueError, match=r"uniforms has shape \(5, 2\).*\(time, 4, 2\)"
    ):
        inspect.unwrap(imagine)(
            rssm, rssm.initial(4), act, None, uniforms=jnp.zeros((5, 2))
        )


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"classes": 1}, "classes=1: must be at least 2"),
        ({"hidden": 0}, "hidden=0: must be at least 1"),
        ({"unimix": 1.0}, "unimix=1.0: must be at least 0 and below 1"),
        ({"blocks": 3}, "blocks=3 must divide deter=512"),
    ],
)
def test_sizes_that_make_no_model(sizes, said, getkey):
    with pytest.raises(ValueError, match=said):
        RSSM(6, 3, key=getkey(), **sizes)
