"""λ-returns by hand; policy and value losses recomputed in numpy."""

import functools
from typing import NamedTuple

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import (
    BINS,
    filled,
    is_zero,
    linear,
    make_batch,
    mlp,
    numpy_returns,
    twohot_loss,
    twohot_mean,
    wide,
)

from core.behavior.actor_critic import imagined_loss, replayed_value_loss
from core.behavior.imagination import Imagined
from core.behavior.returns import ReturnScale, lambda_return
from core.constants import LossConstants
from core.networks.heads import PolicyHead, TwoHotHead

OBS, ACTION, UNITS, FEATURES = 3, 2, 4, 12
TIME, BATCH = 4, 3


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def heads():
    """Policy, value and slow value."""
    build_policy = functools.partial(PolicyHead, FEATURES, UNITS, 3, ACTION)
    build_value = functools.partial(TwoHotHead, FEATURES, UNITS, 3)
    return filled(build_policy, 2), filled(build_value, 3), filled(build_value, 4)


def assert_close(got, wanted, tolerance=1e-4):
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


# Returns


def test_lambda_return_by_hand():
    # Entries 0 of reward, discount and mix are not used: 9 would show.
    returns = lambda_return(
        jnp.array([9.0, 1.0, 2.0, 3.0]),
        jnp.array([9.0, 0.9, 0.5, 1.0]),
        jnp.array([9.0, 0.5, 0.5, 0.5]),
        jnp.array([1.0, 2.0, 3.0, 4.0]),
    )
    # R2 = 3 + 1·(2 + 2), R1 = 2 + 0.5·(1.5 + 3.5), R0 = 1 + 0.9·(1 + 2.25)
    np.testing.assert_allclose(returns, [3.925, 4.5, 7.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("mix", "wanted"),
    [
        ([1.0, 1.0, 1.0], [1 + 0.5 * (2 + 0.5 * (3 + 0.5 * 8)), 2 + 0.5 * 7, 7]),
        ([0.0, 0.0, 0.0], [1 + 0.5 * 4, 2 + 0.5 * 6, 3 + 0.5 * 8]),
        # Cut at step 2: what comes after is not looked at, its value stands in.
        ([1.0, 0.0, 1.0], [1 + 0.5 * (2 + 0.5 * 6), 2 + 0.5 * 6, 7]),
    ],
)
def test_lambda_return_at_the_limits(mix, wanted):
    returns = lambda_return(
        jnp.array([9.0, 1.0, 2.0, 3.0]),
        jnp.full(4, 0.5),
        jnp.array([9.0, *mix]),
        jnp.array([9.0, 4.0, 6.0, 8.0]),
    )
    np.testing.assert_allclose(returns, wanted, rtol=1e-6)


def test_lambda_return_keeps_batches_apart(getkey):
    reward, value = jax.random.normal(getkey(), (2, 5, 2, 3))
    discount, mix = jax.random.uniform(getkey(), (2, 5, 2, 3))
    returns = jax.jit(lambda_return)(reward, discount, mix, value)
    assert returns.shape == (4, 2, 3)
    wanted = numpy_returns(*map(wide, (reward, discount, mix, value)))
    np.testing.assert_allclose(returns, wanted, rtol=1e-5, atol=1e-6)


def test_return_scale_by_hand():
    scale = ReturnScale.initial().update(jnp.arange(101.0).reshape(101, 1))
    np.testing.assert_allclose(scale, (0.05, 0.95), rtol=1e-5)
    assert scale.scale() == 1.0  # the limit: 0.9 is not blown up
    np.testing.assert_allclose(scale.scale(0.5), 0.9, rtol=1e-5)
    scale = scale.update(jnp.arange(101.0).reshape(1, 101))
    np.testing.assert_allclose(scale, (0.0995, 1.8905), rtol=1e-5)
    np.testing.assert_allclose(scale.scale(), 1.791, rtol=1e-5)
    # Between two values the percentiles are interpolated.
    pair = ReturnScale.initial().update(jnp.array([0.0, 10.0]), rate=1.0)
    np.testing.assert_allclose(pair, (0.5, 9.5), rtol=1e-5)


# Actor and critic


def tame(head):
    """The head with its mass on small bins, where float32 sums are accurate."""
    bias = jnp.asarray(np.where(np.abs(BINS) < 20, 0.0, -60.0), jnp.float32)
    return eqx.tree_at(lambda h: h.out.bias, head, head.out.bias + bias)


class Rollout(NamedTuple):
    """Features and what was predicted of them, one row more than there are actions."""

    features: jax.Array
    action: jax.Array
    reward: jax.Array
    cont: jax.Array

    def seen_by(self, policy, value, slow) -> Imagined:
        """What the heads say of it, with the gradients they carry."""
        stop = jax.lax.stop_gradient
        before = self.features[:-1]
        return Imagined(
            policy(before),
            self.action,
            value(before),
            stop(value(self.features).mean()),
            stop(slow(self.features).mean()),
            self.reward,
            self.cont,
        )


def make_rollout(getkey):
    return Rollout(
        jax.random.normal(getkey(), (TIME, BATCH, FEATURES)),
        jax.random.normal(getkey(), (TIME - 1, BATCH, ACTION)),
        3 * jax.random.normal(getkey(), (TIME, BATCH)),
        jax.random.uniform(getkey(), (TIME, BATCH), minval=0.5),
    )


def test_imagined_losses(heads, getkey):
    policy, value, slow = heads[0], tame(heads[1]), tame(heads[2])
    rollout = make_rollout(getkey)
    before = ReturnScale(jnp.array(-1.0), jnp.array(2.0))
    output = jax.jit(
        functools.partial(
            imagined_loss,
            constants=LossConstants(
                entropy=0.1, slow_regularizer=0.7, return_norm_rate=0.25
            ),
        )
    )(before, rollout.seen_by(policy, value, slow))

    features, action, reward, cont = map(wide, rollout)
    values = twohot_mean(value, features)
    returns = numpy_returns(reward, cont, np.full_like(cont, 0.95), values)
    low, high = np.percentile(returns, [5, 95])
    low, high = 0.75 * -1 + 0.25 * low, 0.75 * 2 + 0.25 * high
    assert high - low > 1
    advantage = (returns - values[:-1]) / (high - low)
    hidden = mlp(policy.mlp, features)
    mean = np.tanh(linear(policy.mean, hidden))
    deviation = 0.1 + 0.9 / (1 + np.exp(-linear(policy.stddev, hidden) - 2))
    log_prob = -0.5 * ((action - mean[:-1]) / deviation[:-1]) ** 2
    log_prob = (log_prob - np.log(deviation[:-1]) - 0.5 * np.log(2 * np.pi)).sum(-1)
    entropy = (0.5 * np.log(2 * np.pi * np.e * deviation**2)).sum(-1)
    # Weighted by the probability of being alive, that of the first state included.
    weight = np.cumprod(cont, 0)[:-1]
    policy_loss = -weight * (log_prob * advantage + 0.1 * entropy[:-1])
    slow_mean = twohot_mean(slow, features)
    value_loss = weight * (
        twohot_loss(value, features[:-1], returns)
        + 0.7 * twohot_loss(value, features[:-1], slow_mean[:-1])
    )

    assert_close(output.return_scale, (low, high))
    assert_close(output.returns, returns[0])
    assert_close(output.losses["policy"], policy_loss.mean())
    assert_close(output.losses["value"], value_loss.mean())
    assert_close(output.metrics["entropy"], entropy[:-1].mean())
    assert_close(output.metrics["advantage_abs"], np.abs(advantage).mean())
    assert_close(output.metrics["return_scale"], high - low)
    assert_close(output.metrics["value"], values.mean())
    assert_close(output.metrics["imagined_reward"], reward.mean())
    assert_close(output.metrics["imagined_return"], returns.mean())


def test_small_returns_are_not_blown_up(heads, getkey):
    """Below the limit the advantages are divided by 1."""
    policy, value, slow = heads[0], tame(heads[1]), tame(heads[2])
    imagined = make_rollout(getkey).seen_by(policy, value, slow)
    run = jax.jit(imagined_loss)
    # With the moving averages nearly untouched, the range is that of the start.
    narrow, limit, double = (
        run(ReturnScale(jnp.array(0.0), jnp.array(x)), imagined)
        for x in (-3.0, -5.0, 1e4)
    )
    assert narrow.metrics["return_scale"] == limit.metrics["return_scale"] == 1
    np.testing.assert_array_equal(narrow.losses["policy"], limit.losses["policy"])
    assert double.metrics["advantage_abs"] < narrow.metrics["advantage_abs"] / 1e3


def test_imagined_losses_train_only_their_own_head(heads, getkey):
    rollout = make_rollout(getkey)

    def loss(arguments, of_policy, of_value):
        *heads, rollout = arguments
        imagined = rollout.seen_by(*heads)
        losses = imagined_loss(ReturnScale.initial(), imagined).losses
        return of_policy * losses["policy"] + of_value * losses["value"]

    gradient = jax.jit(jax.grad(loss))
    policy, value, slow, _ = gradient((*heads, rollout), 1.0, 0.0)
    assert not is_zero(policy)
    assert is_zero((value, slow))
    policy, value, slow, _ = gradient((*heads, rollout), 0.0, 1.0)
    assert not is_zero(value)
    assert is_zero((policy, slow))


def test_policy_gradient_is_reinforce(heads, getkey):
    """Advantages and survival are constants: only log π and H are differentiated."""
    policy, value, slow = heads[0], tame(heads[1]), tame(heads[2])
    rollout = make_rollout(getkey)
    scale = ReturnScale(jnp.array(0.0), jnp.array(2.0))

    def loss(policy):
        imagined = rollout.seen_by(policy, value, slow)
        output = imagined_loss(scale, imagined, LossConstants(return_norm_rate=0.0))
        return output.losses["policy"]

    features = wide(rollout.features)
    values = twohot_mean(value, features)
    cont = wide(rollout.cont)
    returns = numpy_returns(
        wide(rollout.reward), cont, np.full_like(cont, 0.95), values
    )
    advantage = jnp.asarray((returns - values[:-1]) / 2, jnp.float32)
    weight = jnp.cumprod(rollout.cont, 0)[:-1]

    def plain(policy):
        dist = policy(rollout.features[:-1])
        gain = dist.log_prob(rollout.action) * advantage + 3e-4 * dist.entropy()
        return -jnp.mean(weight * gain)

    got, wanted = jax.jit(lambda p: (jax.grad(loss)(p), jax.grad(plain)(p)))(policy)
    chex.assert_trees_all_close(got, wanted, rtol=1e-3, atol=1e-5)


def test_replayed_value_loss(heads, getkey):
    value, slow = tame(heads[1]), tame(heads[2])
    batch = make_batch(getkey, TIME, BATCH, OBS, ACTION)
    features = jax.random.normal(getkey(), (TIME, BATCH, FEATURES))
    bootstrap = 4 * jax.random.normal(getkey(), (TIME, BATCH))
    loss = jax.jit(
        functools.partial(
            replayed_value_loss,
            constants=LossConstants(discount_horizon=10, slow_regularizer=0.7),
        )
    )(value, slow, features, batch, bootstrap)

    last, terminal = wide(batch.is_last), wide(batch.is_terminal)
    returns = numpy_returns(
        wide(batch.reward), 0.9 * (1 - terminal), 0.95 * (1 - last), wide(bootstrap)
    )
    x = wide(features)[:-1]
    wanted = twohot_loss(value, x, returns)
    wanted = wanted + 0.7 * twohot_loss(value, x, twohot_mean(slow, x))
    # A row that ends its episode has no following row to learn from.
    assert_close(loss, np.mean((1 - last[:-1]) * wanted))


def test_replayed_value_loss_at_the_end_of_an_episode(heads, getkey):
    """Before a terminal row only the reward counts, before a cut-off one its value."""
    value, slow = tame(heads[1]), tame(heads[2])
    batch, features = (
        make_batch(getkey, TIME, BATCH, OBS, ACTION),
        jnp.zeros((TIME, BATCH, FEATURES)),
    )
    bootstrap = jax.random.normal(getkey(), (TIME, BATCH))
    run = jax.jit(replayed_value_loss)
    base = run(value, slow, features, batch, bootstrap)
    terminal = run(value, slow, features, batch, bootstrap.at[1, 0].add(3.0))
    cut_off = run(value, slow, features, batch, bootstrap.at[2, 1].add(3.0))
    assert terminal == base
    assert cut_off != base
    # Rewards of the episode that follows do not reach back over its first row.
    beyond = batch._replace(reward=batch.reward.at[2, 0].add(3.0))
    other = run(value, slow, features, beyond, bootstrap)
    changed = run(
        value,
        slow,
        features,
        batch._replace(reward=batch.reward.at[1, 0].add(3.0)),
        bootstrap,
    )
    assert other == base
    assert changed != base


def test_replayed_value_loss_trains_value_and_features(heads, getkey):
    batch = make_batch(getkey, TIME, BATCH, OBS, ACTION)
    arguments = (
        *heads[1:],
        jax.random.normal(getkey(), (TIME, BATCH, FEATURES)),
        jax.random.normal(getkey(), (TIME, BATCH)),
    )

    def loss(arguments):
        value, slow, features, bootstrap = arguments
        return replayed_value_loss(value, slow, features, batch, bootstrap)

    value, slow, features, bootstrap = jax.jit(jax.grad(loss))(arguments)
    assert not is_zero(value)
    assert not is_zero(features)
    assert is_zero((slow, bootstrap))
    # The last row has no return, and neither has the row that ends an episode.
    assert is_zero((features[-1], features[1, 0], features[2, 1]))
    assert not is_zero(features[0, 0])
