"""World-model losses and imagination, recomputed in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import (
    BINS,
    dense,
    filled,
    is_zero,
    linear,
    make_batch,
    mlp,
    softmax,
    twohot_log_probs,
    twohot_loss,
    wide,
)

from core.behavior.imagination import ActorCritic, imagine
from core.constants import LossConstants
from core.networks.heads import PolicyHead, TwoHotHead
from core.rssm import State
from core.sizes import ModelSize
from core.world_model import WorldModel, world_model_loss

OBS, ACTION, UNITS, DETER, ROWS, CLASSES = 3, 2, 4, 6, 2, 3
FEATURES = DETER + ROWS * CLASSES
TIME, BATCH = 4, 3


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def model():
    build = functools.partial(
        WorldModel,
        OBS,
        ACTION,
        size=ModelSize(
            units=UNITS,
            deter=DETER,
            hidden=UNITS,
            stoch=ROWS,
            classes=CLASSES,
            blocks=2,
        ),
    )
    return filled(build, 1)


@pytest.fixture(scope="module")
def policy():
    return filled(functools.partial(PolicyHead, FEATURES, UNITS, 3, ACTION), 2)


@pytest.fixture(scope="module")
def value():
    return filled(functools.partial(TwoHotHead, FEATURES, UNITS, 3), 3)


@pytest.fixture(scope="module")
def slow_value():
    return filled(functools.partial(TwoHotHead, FEATURES, UNITS, 3), 4)


def initial_state():
    return State(jnp.zeros((BATCH, DETER)), jnp.zeros((BATCH, ROWS, CLASSES)))


def assert_close(got, wanted, tolerance=1e-4):
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


# World model


def recompute_world_model(model, output, batch, free_nats):
    deter = wide(output.observed.states.deter)
    features = wide(output.observed.states.features)
    decoded = linear(model.decoder.out, mlp(model.decoder.mlp, features))
    symlog = np.sign(batch.obs) * np.log1p(np.abs(wide(batch.obs)))
    cont = linear(model.cont.out, mlp(model.cont.mlp, features))[..., 0]
    # A horizon of 333 decisions is a discount of 332/333.
    target = (1 - wide(batch.is_terminal)) * 332 / 333
    cont_loss = target * np.log1p(np.exp(-cont)) + (1 - target) * np.log1p(np.exp(cont))
    rows = (*deter.shape[:-1], ROWS, CLASSES)
    hidden = dense(model.rssm.prior_in[1], dense(model.rssm.prior_in[0], deter))
    prior = softmax(linear(model.rssm.prior_out, hidden).reshape(rows))
    prior = 0.99 * prior + 0.01 / CLASSES
    posterior = softmax(wide(output.observed.posterior))
    posterior = 0.99 * posterior + 0.01 / CLASSES
    kl = np.sum(posterior * np.log(posterior / prior), (-2, -1))
    entropies = {
        "posterior": -np.sum(posterior * np.log(posterior), (-2, -1)).mean(),
        "prior": -np.sum(prior * np.log(prior), (-2, -1)).mean(),
    }
    losses = {
        "rec": np.sum((decoded - symlog) ** 2, -1),
        "rew": twohot_loss(model.reward, features, wide(batch.reward)),
        "con": cont_loss,
        "dyn": np.maximum(kl, free_nats),
        "rep": np.maximum(kl, free_nats),
    }
    return losses, entropies, kl


def test_world_model_losses(model, getkey):
    batch, key = make_batch(getkey, TIME, BATCH, OBS, ACTION), getkey()
    free_nats = 1.37
    output = jax.jit(
        functools.partial(
            world_model_loss, constants=LossConstants(free_nats=free_nats)
        )
    )(model, initial_state(), batch, key=key)
    losses, entropies, kl = recompute_world_model(model, output, batch, free_nats)
    # Both branches of the maximum are met.
    assert kl.min() < free_nats < kl.max()
    assert output.losses.keys() == losses.keys()
    for name, wanted in losses.items():
        assert wanted.shape == (TIME, BATCH)
        np.testing.assert_allclose(
            output.losses[name], wanted, 2e-4, 2e-5, err_msg=name
        )
    for name, wanted in entropies.items():
        np.testing.assert_allclose(output.entropies[name], wanted, rtol=1e-4)
    # What later stages reuse: e = encoder(o) of every row.
    symlog = np.sign(batch.obs) * np.log1p(np.abs(wide(batch.obs)))
    assert_close(output.embeds, mlp(model.encoder.mlp, symlog))


def test_observation_is_decoded_in_its_own_units(model, getkey):
    features = jax.random.normal(getkey(), (2, FEATURES))
    symlog = linear(model.decoder.out, mlp(model.decoder.mlp, wide(features)))
    wanted = np.sign(symlog) * np.expm1(np.abs(symlog))
    assert_close(model.decoder(features), wanted)


@pytest.fixture(scope="module")
def kl_gradients():
    """Compiled gradient of dyn·Σ dyn + rep·Σ rep."""

    def loss(model, batch, key, dyn, rep, free_nats):
        output = world_model_loss(
            model,
            initial_state(),
            batch,
            key=key,
            constants=LossConstants(free_nats=free_nats),
        )
        losses = output.losses
        return dyn * jnp.sum(losses["dyn"]) + rep * jnp.sum(losses["rep"])

    return jax.jit(jax.grad(loss))


def test_dyn_trains_the_prior_and_rep_the_posterior(model, kl_gradients, getkey):
    # With one row the posterior's sample has no part in the prior.
    batch, key = make_batch(getkey, 1, BATCH, OBS, ACTION), getkey()
    dyn = kl_gradients(model, batch, key, 1.0, 0.0, 0.0)
    rep = kl_gradients(model, batch, key, 0.0, 1.0, 0.0)
    assert is_zero((dyn.encoder, dyn.rssm.posterior_in, dyn.rssm.posterior_out))
    assert not is_zero(dyn.rssm.prior_out)
    assert is_zero((rep.rssm.prior_in, rep.rssm.prior_out))
    assert not is_zero(rep.encoder)
    assert not is_zero(rep.rssm.posterior_out)


def test_kl_below_the_free_nats_has_no_gradient(model, kl_gradients, getkey):
    batch = make_batch(getkey, 1, BATCH, OBS, ACTION)
    assert is_zero(kl_gradients(model, batch, getkey(), 1.0, 1.0, 1e3))


# Imagination


def test_every_head_speaks_of_the_imagined_states(
    model, policy, value, slow_value, getkey
):
    starts = State(
        jax.random.normal(getkey(), (5, DETER)),
        jax.nn.one_hot(jnp.zeros((5, ROWS), int), CLASSES),
    )
    key = getkey()
    heads = ActorCritic(policy, value, slow_value)
    imagined = jax.jit(functools.partial(imagine, length=3))(
        model, heads, starts, key=key
    )
    # The same rollout again, with its states.
    act_key, prior_key = jax.random.split(key)
    last, states = jax.jit(
        lambda rssm, policy: rssm.imagine(
            starts,
            lambda state, key: (policy(state.features).sample(key), state),
            jax.random.split(act_key, 3),
            uniforms=jax.random.uniform(prior_key, (3, 5, ROWS)),
        )
    )(model.rssm, policy)
    assert imagined.action.shape == (3, 5, ACTION)
    features = np.concatenate([wide(states.features), wide(last.features)[None]])
    cont = linear(model.cont.out, mlp(model.cont.mlp, features))[..., 0]
    assert_close(imagined.cont, 1 / (1 + np.exp(-cont)))
    mean = np.tanh(linear(policy.mean, mlp(policy.mlp, features[:-1])))
    assert_close(imagined.policy.mean, mean)
    assert_close(
        imagined.value.logits, linear(value.out, mlp(value.mlp, features[:-1]))
    )
    for head, means in (
        (model.reward, imagined.reward),
        (value, imagined.estimate),
        (slow_value, imagined.slow),
    ):
        probs = np.exp(twohot_log_probs(head, features))
        error = np.abs(means - probs @ BINS)
        assert (error <= 1e-4 * (probs @ np.abs(BINS))).all()


def test_imagination_trains_policy_and_value_alone(
    model, policy, value, slow_value, getkey
):
    starts = State(
        jax.random.normal(getkey(), (5, DETER)),
        jax.nn.one_hot(jnp.zeros((5, ROWS), int), CLASSES),
    )
    key = getkey()

    def total(arguments, of_policy, of_value):
        model, policy, value, slow_value, starts = arguments
        imagined = imagine(
            model, ActorCritic(policy, value, slow_value), starts, 3, key=key
        )
        constant = (imagined.action, imagined.estimate, imagined.slow)
        constant += (imagined.reward, imagined.cont)
        parts = [(imagined.policy, of_policy), (imagined.value, of_value)]
        parts += [(constant, 1.0)]
        return sum(w * jnp.sum(x) for part, w in parts for x in jax.tree.leaves(part))

    arguments = (model, policy, value, slow_value, starts)
    gradient = jax.jit(jax.grad(total))
    model_, policy_, value_, slow_, starts_ = gradient(arguments, 1.0, 1.0)
    assert is_zero((model_, slow_, starts_))
    assert not is_zero(policy_) and not is_zero(value_)
    assert is_zero(gradient(arguments, 0.0, 0.0))
    assert is_zero(gradient(arguments, 1.0, 0.0)[2])
