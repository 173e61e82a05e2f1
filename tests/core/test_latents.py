"""Gaussian latents, against closed forms computed in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from forms import OBSERVE
from reference import filled, linear, make_batch, wide

from core.constants import LossConstants
from core.latents import Categorical, Gaussian
from core.loops import block_gru, wide_gru
from core.networks.dists import Gaussians, normal_from_uniform
from core.penalty import (
    PenaltyOptions,
    dynamics_penalty,
    mean_norms,
    posterior_jacobian,
    recurrent_penalty,
)
from core.rssm import RSSM, State
from core.sizes import ModelSize
from core.smoothness import Inputs, jacobian_norms, kl_sensitivity
from core.world_model import WorldModel, world_model_loss

DETER, HIDDEN, K, EMBED, ACTION = 8, 5, 3, 4, 2
TIME, BATCH, OBS = 4, 3, 5
FLOOR = 0.1
GAUSSIAN = Gaussian(FLOOR)


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def rssm():
    build = functools.partial(
        RSSM,
        EMBED,
        ACTION,
        deter=DETER,
        hidden=HIDDEN,
        categoricals=K,
        blocks=2,
        latents=GAUSSIAN,
    )
    return filled(build, 1)


@pytest.fixture(scope="module")
def model():
    size = ModelSize(units=6, deter=DETER, hidden=HIDDEN, stoch=K, blocks=2)
    return filled(
        functools.partial(WorldModel, OBS, ACTION, size=size, latents=GAUSSIAN), 2
    )


def parts(parameters):
    """Mean and standard deviation in float64."""
    mean, raw = np.moveaxis(wide(parameters), -1, 0)
    return mean, np.logaddexp(0, raw) + FLOOR


def kl_of(p, q):
    (m, s), (n, t) = p, q
    return np.sum(np.log(t / s) + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5, -1)


def start(rssm, getkey, *batch):
    return State(
        jnp.tanh(jax.random.normal(getkey(), (*batch, DETER))),
        jax.random.normal(getkey(), (*batch, K, 1)),
    )


def sequence(getkey):
    shape = (TIME, BATCH)
    return (
        jax.random.normal(getkey(), (*shape, EMBED)),
        jax.random.normal(getkey(), (*shape, ACTION)),
        jnp.zeros(shape, bool).at[2, 1].set(True),
    )


# The distribution


def test_kl_and_entropy_are_the_closed_forms(getkey):
    one, other = (2 * jax.random.normal(getkey(), (7, K, 2)) for _ in range(2))
    p, q = GAUSSIAN.dist(one), GAUSSIAN.dist(other)
    found = p.kl(q)
    np.testing.assert_allclose(found, kl_of(parts(one), parts(other)), rtol=1e-5)
    entropy = scipy.stats.norm(*parts(one)).entropy().sum(-1)
    np.testing.assert_allclose(p.entropy(), entropy, rtol=1e-5)
    # And the definition: the integral of p·log(p/q).
    normal = scipy.stats.norm
    first, second = ([x[0, 0] for x in parts(y)] for y in (one, other))
    log_ratio = lambda x: normal.logpdf(x, *first) - normal.logpdf(x, *second)
    integral = normal(*first).expect(log_ratio)
    single = GAUSSIAN.dist(one[:1, :1]).kl(GAUSSIAN.dist(other[:1, :1]))
    np.testing.assert_allclose(single[0], integral, rtol=1e-4)


def test_kl_of_close_distributions_does_not_cancel(getkey):
    one = jax.random.normal(getkey(), (7, K, 2))
    other = one + 1e-4 * jax.random.normal(getkey(), one.shape)
    p, q = GAUSSIAN.dist(one), GAUSSIAN.dist(other)
    # From the float32 values themselves, whose difference is exact.
    values = [(wide(d.mean())[..., 0], wide(d.stddev)[..., 0]) for d in (p, q)]
    found = p.kl(q)
    assert np.all(found > 0)
    np.testing.assert_allclose(found, kl_of(*values), rtol=1e-4)
    assert np.all(p.kl(p) == 0)


def test_the_floor_bounds_the_standard_deviation():
    dist = Gaussians(jnp.zeros((2, 1)), jnp.array([[-200.0], [0.0]]), FLOOR)
    np.testing.assert_allclose(dist.stddev[:, 0], [0.1, 0.1 + np.log(2)], rtol=1e-6)
    with pytest.raises(ValueError, match=r"floor=0\.0: must be above 0"):
        Gaussian(0.0)


# Drawing


def test_normal_numbers_at_the_edges_of_the_uniform_ones():
    """0 is a uniform number that is drawn, once in 8 million times."""
    step = 2.0**-23
    uniform = jnp.array([0.0, step, 0.25, 0.5, 1 - step], jnp.float32)
    found = normal_from_uniform(uniform)
    wanted = scipy.stats.norm.ppf(wide(uniform) + step / 2)
    assert np.all(np.isfinite(wanted))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)
    assert found[0] == -found[-1]


def test_samples_follow_the_distribution(getkey):
    parameters = jnp.array([[0.5, -1.0], [-2.0, 1.0]])
    shape = 20_000, 2
    uniform = jax.random.uniform(getkey(), shape)
    given = jnp.broadcast_to(parameters, (*shape, 2))
    z = wide(GAUSSIAN.sample(given, uniform))
    assert z.shape == (*shape, 1)
    mean, stddev = parts(parameters)
    for i in range(2):
        test = scipy.stats.kstest(z[:, i, 0], scipy.stats.norm(mean[i], stddev[i]).cdf)
        assert test.pvalue > 1e-3
    error = stddev / np.sqrt(shape[0])
    assert np.all(np.abs(z[..., 0].mean(0) - mean) < 4 * error)
    assert np.all(np.abs(z[..., 0].std(0) - stddev) < 4 * error / np.sqrt(2))
    product = np.prod((z[..., 0] - mean) / stddev, axis=-1)
    assert abs(product.mean()) < 4 / np.sqrt(shape[0])  # independent


def test_gradients_are_those_of_the_reparametrization(getkey):
    parameters = jax.random.normal(getkey(), (K, 2))
    uniform = jax.random.uniform(getkey(), (K,))
    draw = lambda x: GAUSSIAN.sample(x, uniform)[..., 0]
    found = wide(jax.jacrev(draw)(parameters))
    noise = scipy.stats.norm.ppf(wide(uniform))
    slope = 1 / (1 + np.exp(-wide(parameters[:, 1])))
    wanted = np.zeros((K, K, 2))
    for i in range(K):
        wanted[i, i] = 1, noise[i] * slope[i]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_the_replay_buffer_stores_bfloat16():
    z = jnp.array([[[1 + 2.0**-9], [-0.5], [3.0]]])
    packed = GAUSSIAN.pack(z)
    assert (packed.dtype, packed.shape) == (jnp.bfloat16, (1, 3))
    back = GAUSSIAN.unpack(packed, jnp.float32)
    np.testing.assert_array_equal(back, [[[1.0], [-0.5], [3.0]]])


# The RSSM


def test_a_sequence_step_by_step(rssm, getkey):
    initial, (embeds, actions, is_first) = start(rssm, getkey, BATCH), sequence(getkey)
    key = getkey()
    _, seen = rssm.observe(initial, embeds, actions, is_first, key=key)
    uniforms = wide(jax.random.uniform(key, (TIME, BATCH, K)))
    mean, stddev = parts(seen.posterior)
    wanted = mean + stddev * scipy.stats.norm.ppf(uniforms + 2.0**-24)
    assert seen.states.stoch.shape == (TIME, BATCH, K, 1)
    np.testing.assert_allclose(seen.states.stoch[..., 0], wanted, rtol=1e-4, atol=1e-5)
    # The recurrent map has z as its input.
    u = np.concatenate([wide(seen.states.deter), wide(embeds)], -1)
    np.testing.assert_allclose(
        seen.preactivation, linear(rssm.posterior_in.linear, u), rtol=1e-4, atol=1e-4
    )


@pytest.mark.long
@pytest.mark.parametrize(
    "observe", [OBSERVE[x] for x in ("block_gru", "deferred", "wide")]
)
def test_the_fast_forms_observe_the_same(rssm, observe, getkey):
    initial, rows, key = start(rssm, getkey, BATCH), sequence(getkey), getkey()
    errors = jax.random.normal(getkey(), (TIME, BATCH, K, 1))

    def outcome(observe, rssm, initial):
        last, seen = observe(rssm, initial, *rows, key=key, errors=errors)
        loss = jnp.sum(jnp.sin(seen.states.features)) + jnp.sum(seen.posterior**2)
        return loss + jnp.sum(last.stoch), seen

    found, wanted = (
        jax.jit(jax.value_and_grad(functools.partial(outcome, f), (0, 1), has_aux=True))
        for f in (observe, RSSM.observe)
    )
    for x, y in zip(
        jax.tree.leaves(found(rssm, initial)),
        jax.tree.leaves(wanted(rssm, initial)),
        strict=True,
    ):
        np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("imagine", [block_gru.imagine, wide_gru.imagine])
def test_the_fast_forms_imagine_the_same(rssm, imagine, getkey):
    initial = start(rssm, getkey, BATCH)
    uniforms = jax.random.uniform(getkey(), (TIME, BATCH, K))
    actions = jax.random.normal(getkey(), (TIME, BATCH, ACTION))
    act = lambda state, action: (action, state)
    found = imagine(rssm, initial, act, actions, uniforms=uniforms)
    wanted = RSSM.imagine(rssm, initial, act, actions, uniforms=uniforms)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)


def test_features_and_states_are_inverse(rssm, getkey):
    state = start(rssm, getkey, BATCH)
    assert state.features.shape == (BATCH, rssm.features)
    back = rssm.state(state.features)
    np.testing.assert_array_equal(back.stoch, state.stoch)
    np.testing.assert_array_equal(back.deter, state.deter)


# Losses


def losses(model, rows, free_nats, key):
    initial = model.rssm.initial(BATCH)
    constants = LossConstants(free_nats=free_nats)
    return world_model_loss(model, initial, rows, key=key, constants=constants)


def test_kl_losses_with_free_nats_on_the_sum(model, getkey):
    rows, key = make_batch(getkey, TIME, BATCH, OBS, ACTION), getkey()
    output = losses(model, rows, 0.0, key)
    posterior = parts(output.observed.posterior)
    prior = parts(model.rssm.prior_logits(output.observed.states.deter))
    kl = kl_of(posterior, prior)
    free = float(np.median(kl))
    output = losses(model, rows, free, key)
    for name in ("dyn", "rep"):
        np.testing.assert_allclose(
            output.losses[name], np.maximum(free, kl), rtol=1e-3, atol=1e-4
        )
    for name, (mean, stddev) in {"posterior": posterior, "prior": prior}.items():
        wanted = scipy.stats.norm(mean, stddev).entropy().sum(-1).mean()
        np.testing.assert_allclose(output.entropies[name], wanted, rtol=1e-4)


def test_each_kl_loss_trains_its_own_side(model, getkey):
    rows, key = make_batch(getkey, 1, BATCH, OBS, ACTION), getkey()

    @jax.jit
    def gradients(free):
        def loss(model, name):
            return jnp.sum(losses(model, rows, free, key).losses[name])

        found = {name: jax.grad(loss)(model, name).rssm for name in ("dyn", "rep")}
        # (posterior, prior)
        sides = lambda rssm: (rssm.posterior_out.weight, rssm.prior_out.weight)
        return {name: sides(rssm) for name, rssm in found.items()}

    moved = lambda free: jax.tree.map(lambda x: bool(jnp.any(x != 0)), gradients(free))
    assert moved(0.0) == {"dyn": (False, True), "rep": (True, False)}
    assert moved(1e6) == {"dyn": (False, False), "rep": (False, False)}


# Penalty and norms


@pytest.mark.long
def test_the_core_penalty_is_the_norm_of_the_recurrent_jacobian(rssm, getkey):
    states = start(rssm, getkey, BATCH)
    actions = 0.5 * jax.random.normal(getkey(), (BATCH, ACTION))
    found = recurrent_penalty(rssm, states, actions, key=getkey(), probes=20_000)

    def norm(state, action):
        jacobian = jax.jacrev(lambda s: rssm.recurrent(s, action))(state)
        return jnp.sqrt(sum(jnp.sum(j**2) for j in jax.tree.leaves(jacobian)))

    np.testing.assert_allclose(found, jax.vmap(norm)(states, actions), rtol=0.03)


def test_other_targets_are_refused(rssm, getkey):
    initial, (embeds, actions, is_first) = start(rssm, getkey, BATCH), sequence(getkey)
    _, seen = rssm.observe(initial, embeds, actions, is_first, key=getkey())
    rows = make_batch(getkey, TIME, BATCH, OBS, ACTION)
    call = lambda target: dynamics_penalty(
        rssm, seen, embeds, rows, key=getkey(), options=PenaltyOptions(target=target)
    )
    assert jnp.isfinite(call("core")["core"])
    for target in ("posterior", "prior", "both"):
        with pytest.raises(ValueError, match=f"target='{target}'.*use target='core'"):
            call(target)
    with pytest.raises(ValueError, match="have no classes"):
        _ = rssm.classes


def test_exact_norms_are_those_of_the_means(rssm, getkey):
    deter = jax.random.normal(getkey(), (BATCH, DETER))
    embed = jax.random.normal(getkey(), (BATCH, EMBED))

    def norm(mean, *x):
        jacobian = jax.jacrev(mean, argnums=tuple(range(len(x))))(*x)
        return sum(jnp.sum(j**2) for j in jacobian) / K

    mean = lambda logits: logits[..., 0]
    posterior = lambda h, e: mean(rssm.posterior_logits(h, e))
    prior = lambda h: mean(rssm.prior_logits(h))
    wanted = {
        "posterior": jax.vmap(functools.partial(norm, posterior))(deter, embed),
        "prior": jax.vmap(functools.partial(norm, prior))(deter),
    }
    found = jacobian_norms(rssm, Inputs(deter, embed))
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4)
    # The logged one, of the last states.
    initial, (embeds, actions, is_first) = start(rssm, getkey, BATCH), sequence(getkey)
    _, seen = rssm.observe(initial, embeds, actions, is_first, key=getkey())
    last = jax.vmap(functools.partial(norm, posterior))(
        seen.states.deter[-1], embeds[-1]
    )
    logged = posterior_jacobian(rssm, seen, embeds)
    np.testing.assert_allclose(logged, jnp.mean(last), rtol=1e-4)


@pytest.mark.long
def test_means_of_categoricals_have_the_norm_that_the_penalty_estimates(getkey):
    rssm = RSSM(
        EMBED,
        ACTION,
        key=getkey(),
        deter=DETER,
        hidden=HIDDEN,
        categoricals=K,
        blocks=2,
    )
    assert rssm.latents == Categorical(4, 0.01)
    deter = jax.random.normal(getkey(), (BATCH, DETER))
    embed = jax.random.normal(getkey(), (BATCH, EMBED))
    first = rssm.posterior_in.linear
    a = first(jnp.concatenate([deter, embed], -1))
    found = mean_norms(rssm, rssm.posterior_logits_from, a, first.weight)
    wanted = jacobian_norms(rssm, Inputs(deter, embed))["posterior"]
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_kl_sensitivity_is_of_the_closed_form(rssm, getkey):
    """KL is quadratic: half the perturbation has half the KL per length."""
    deter = jax.random.normal(getkey(), (BATCH, DETER))
    inputs, key = Inputs(deter, jax.random.normal(getkey(), (BATCH, EMBED))), getkey()
    whole = kl_sensitivity(rssm, inputs, 1e-3, key=key)
    half = kl_sensitivity(rssm, inputs, 5e-4, key=key)
    for name in ("posterior", "prior"):
        assert np.all(whole[name] > 0)
        np.testing.assert_allclose(whole[name] / half[name], 2, rtol=0.02)
