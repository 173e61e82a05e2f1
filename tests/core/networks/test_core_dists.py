"""Distributions of the heads: hand-computed values, samples, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import one_hot

from core.networks.dists import (
    Bernoulli,
    BoundedNormal,
    Categoricals,
    Gaussians,
    TwoHot,
    onehot_from_uniform,
)
from core.networks.transforms import symexp_bins

LOG2PI = np.log(2 * np.pi)


def softmax(x):
    x = np.exp(np.asarray(x, np.float64) - np.max(x, -1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def logits_of(probs):
    return jnp.log(jnp.asarray(probs, jnp.float32))


def assert_frequencies(counts, probs, total):
    """Binomial counts within three standard errors of their expectation."""
    probs = np.asarray(probs, np.float64)
    allowed = 3 * np.sqrt(probs * (1 - probs) / total)
    assert (np.abs(np.asarray(counts) / total - probs) <= allowed).all()


# Two-hot


@pytest.mark.parametrize("constant", [0.0, 7.3])
def test_twohot_mean_is_exactly_zero_for_uniform_logits(constant):
    logits = jnp.full((3, 255), constant)

    def mean(logits):
        return TwoHot(logits).mean()

    np.testing.assert_array_equal(mean(logits), np.zeros(3))
    np.testing.assert_array_equal(jax.jit(mean)(logits), np.zeros(3))


def test_twohot_mean_is_the_expectation_over_the_bins(getkey):
    logits = 3 * jax.random.normal(getkey(), (6, 255))
    bins = np.asarray(symexp_bins(), np.float64)
    terms = softmax(logits) * bins
    error = np.abs(np.asarray(TwoHot(logits).mean()) - terms.sum(-1))
    # The terms cancel: rounding is relative to their magnitudes, not to the sum.
    assert (error <= 1e-5 * np.abs(terms).sum(-1)).all()


def test_twohot_mean_of_a_certain_bin():
    logits = 1e4 * one_hot(jnp.array([0, 1, 2, 3, 4]), 5)
    e10, e20 = np.exp(10.0) - 1, np.exp(20.0) - 1
    np.testing.assert_allclose(
        TwoHot(logits).mean(), [-e20, -e10, 0, e10, e20], rtol=1e-5
    )


def test_twohot_loss_by_hand():
    # Bins: ±(e^20 − 1), ±(e^10 − 1), 0. A quarter of the way from bin 2 to bin 3.
    probs = np.array([0.1, 0.1, 0.4, 0.2, 0.2])
    target = jnp.asarray((np.exp(10.0) - 1) / 4, jnp.float32)
    wanted = -(0.75 * np.log(0.4) + 0.25 * np.log(0.2))
    np.testing.assert_allclose(TwoHot(logits_of(probs)).loss(target), wanted, 1e-5)
    uniform = TwoHot(jnp.zeros((2, 255))).loss(jnp.array([3.0, -1e5]))
    np.testing.assert_allclose(uniform, np.log(255), rtol=1e-6)


def test_twohot_loss_gradient_is_softmax_minus_target(getkey):
    logits = jax.random.normal(getkey(), (5,))
    target = jnp.asarray(symexp_bins(5)[3] / 4)

    def loss(logits, target):
        return TwoHot(logits).loss(target)

    to_logits, to_target = jax.jit(jax.grad(loss, argnums=(0, 1)))(logits, target)
    wanted = softmax(logits) - np.array([0, 0, 0.75, 0.25, 0])
    np.testing.assert_allclose(to_logits, wanted, atol=1e-6)
    assert to_target == 0


def test_twohot_losses_of_several_targets(getkey):
    """Σ s·CE: its gradient is Σ s times softmax, minus the weighted targets."""
    logits = jax.random.normal(getkey(), (2, 5))
    bin3 = (np.exp(10.0) - 1) * np.array([[0.25, 1.0], [0.5, -0.25]])
    first, second = jnp.asarray(bin3, jnp.float32)
    twohots = np.array(
        [
            [[0, 0, 0.75, 0.25, 0], [0, 0, 0, 1, 0]],
            [[0, 0, 0.5, 0.5, 0], [0, 0.25, 0.75, 0, 0]],
        ]
    )
    weights = jnp.array([3.0, -2.0])

    def loss(logits):
        losses = TwoHot(logits).losses((first, second), (1.0, 0.3))
        return jnp.sum(weights * losses), losses

    gradient, losses = jax.jit(jax.grad(loss, has_aux=True))(logits)
    probs, mixed = softmax(logits), twohots[0] + 0.3 * twohots[1]
    np.testing.assert_allclose(losses, -np.sum(mixed * np.log(probs), -1), rtol=1e-5)
    wanted = np.asarray(weights)[:, None] * (1.3 * probs - mixed)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-5, atol=1e-6)


# Categoricals


def test_categoricals_mix_in_the_uniform():
    dist = Categoricals(logits_of([[[0.25, 0.75], [0.5, 0.5]]]), 0.1)
    wanted = [[[0.275, 0.725], [0.5, 0.5]]]
    np.testing.assert_allclose(dist.probs, wanted, rtol=1e-6)


def test_entropy_by_hand():
    dist = Categoricals(logits_of([[0.25, 0.75], [0.5, 0.5]]), 0.0)
    wanted = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75)) + np.log(2)
    np.testing.assert_allclose(dist.entropy(), wanted, rtol=1e-6)
    uniform = Categoricals(jnp.zeros((7, 32, 16)))
    np.testing.assert_allclose(uniform.entropy(), 32 * np.log(16), rtol=1e-5)


def test_kl_by_hand():
    q = Categoricals(logits_of([[0.5, 0.5], [0.2, 0.8]]), 0.0)
    p = Categoricals(logits_of([[0.25, 0.75], [0.2, 0.8]]), 0.0)
    # The second row agrees and adds nothing.
    forward = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    backward = 0.25 * np.log(0.25 / 0.5) + 0.75 * np.log(0.75 / 0.5)
    np.testing.assert_allclose(q.kl(p), forward, rtol=1e-5)
    np.testing.assert_allclose(p.kl(q), backward, rtol=1e-5)
    assert q.kl(q) == 0


@pytest.mark.parametrize(
    ("step", "tolerance"), [(1e-4, 1e-6), (3.5e-3, 1e-6), (5e-3, 1e-5), (0.1, 1e-5)]
)
def test_kl_of_nearby_categoricals_does_not_cancel(step, tolerance):
    """On both sides of |t| = 0.02, below which a series is in the logarithm's place."""
    p, q = (
        Categoricals(logits_of([[0.2 + x, 0.8 - x], [0.5, 0.5]]), 0.0)
        for x in (0.0, step)
    )
    # Of the float32 numbers themselves, whose sum need not be 1.
    first, second = (np.asarray(x.probs, np.float64) for x in (p, q))
    t = (second - first) / first
    wanted = np.sum(first * (t - np.log1p(t)))
    np.testing.assert_allclose(p.kl_nearby(q), wanted, rtol=tolerance)


def test_kl_with_unimix_is_bounded():
    q = Categoricals(jnp.array([[1e4, 0.0, 0.0, 0.0]]))
    p = Categoricals(jnp.array([[0.0, 1e4, 0.0, 0.0]]))
    # 0.9925 and 0.0025 change places.
    np.testing.assert_allclose(q.kl(p), 0.99 * np.log(0.9925 / 0.0025), rtol=1e-5)


def test_onehot_from_uniform_at_the_edges():
    probs = jnp.broadcast_to(jnp.array([0.25, 0.25, 0.5]), (6, 3))
    below = np.nextafter
    uniform = jnp.array(
        [
            0.0,
            below(np.float32(0.25), 0),
            0.25,
            below(np.float32(0.5), 0),
            0.5,
            1 - 6e-8,
        ],
        jnp.float32,
    )
    onehot = jax.jit(onehot_from_uniform)(probs, uniform)
    np.testing.assert_array_equal(onehot, np.eye(3)[[0, 0, 1, 1, 2, 2]])


def test_a_class_of_probability_zero_is_never_drawn():
    probs = jnp.array([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    onehot = jax.jit(onehot_from_uniform)(
        probs, jnp.array([0.0, 1 - 6e-8], jnp.float32)
    )
    np.testing.assert_array_equal(onehot, probs)


def test_sampling_frequencies():
    total = 100_000
    probs = np.array([[0.05, 0.15, 0.3, 0.5], [0.4, 0.1, 0.2, 0.3]])
    logits = jnp.broadcast_to(logits_of(probs), (total, 2, 4))
    draw = jax.jit(lambda key: Categoricals(logits, 0.0).sample(key))
    samples = np.asarray(draw(jax.random.key(3)))
    np.testing.assert_array_equal(np.sort(samples, -1), [[[0, 0, 0, 1]] * 2] * total)
    assert_frequencies(samples.sum(0), probs, total)
    # The rows are drawn independently of each other.
    joint = np.einsum("na,nb->ab", samples[:, 0], samples[:, 1])
    assert_frequencies(joint, np.outer(probs[0], probs[1]), total)


def test_straight_through_has_the_sample_value_and_the_probability_gradient(getkey):
    logits = jax.random.normal(getkey(), (3, 2, 4))
    weights = jax.random.normal(getkey(), (3, 2, 4))
    key = getkey()

    def drawn(logits):
        dist = Categoricals(logits, 0.1)
        sample = dist.sample(key)
        return dist.straight_through(sample), sample

    def gradient_of(part):
        return jax.grad(lambda x: jnp.sum(weights * drawn(x)[part]))

    value, sample = jax.jit(drawn)(logits)
    np.testing.assert_array_equal(value, sample)
    gradient = jax.jit(gradient_of(0))(logits)
    p = softmax(logits)
    w = np.asarray(weights, np.float64)
    wanted = 0.9 * p * (w - np.sum(p * w, -1, keepdims=True))
    np.testing.assert_allclose(gradient, wanted, atol=1e-6)
    without = jax.jit(gradient_of(1))(logits)
    np.testing.assert_array_equal(without, np.zeros_like(w))


# Bernoulli


def test_bernoulli_by_hand():
    dist = Bernoulli(jnp.log(jnp.array([1.0, 3.0, 3.0, 3.0])))
    np.testing.assert_allclose(dist.mean(), [0.5, 0.75, 0.75, 0.75], rtol=1e-6)
    wanted = [
        np.log(2),
        -np.log(0.75),
        -np.log(0.25),
        -(0.9 * np.log(0.75) + 0.1 * np.log(0.25)),
    ]
    loss = dist.loss(jnp.array([0.3, 1.0, 0.0, 0.9]))
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)


def test_bernoulli_loss_stays_finite():
    loss = Bernoulli(jnp.array([-200.0, 200.0])).loss(jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(loss, 200, rtol=1e-6)


# Bounded normal


def test_bounded_normal_parameters():
    mean = jnp.array([0.0, 0.5, -40.0])
    dist = BoundedNormal(mean, jnp.array([0.0, -60.0, 60.0]))
    np.testing.assert_allclose(dist.mode(), [0, np.tanh(0.5), -1], rtol=1e-6)
    at_zero = 0.1 + 0.9 / (1 + np.exp(-2.0))
    np.testing.assert_allclose(dist.stddev, [at_zero, 0.1, 1.0], rtol=1e-6)


def test_bounded_normal_density_and_entropy_by_hand():
    # Standard deviations 0.1 and 1: the two ends of the range.
    dist = BoundedNormal(jnp.zeros((1, 2)), jnp.array([[-60.0, 60.0]]))
    # One standard deviation off in the first entry, two in the second.
    log_prob = dist.log_prob(jnp.array([[0.1, 2.0]]))
    np.testing.assert_allclose(log_prob, [-2.5 - np.log(0.1) - LOG2PI], rtol=1e-5)
    np.testing.assert_allclose(dist.entropy(), [np.log(0.1) + LOG2PI + 1], rtol=1e-5)


def test_bounded_normal_samples():
    total = 10_000
    dist = BoundedNormal(jnp.full((total, 1), 0.5), jnp.full((total, 1), -1.0))
    samples = np.asarray(dist.sample(jax.random.key(1)))
    mean, deviation = np.tanh(0.5), 0.1 + 0.9 / (1 + np.exp(-1.0))
    assert abs(samples.mean() - mean) < 3 * deviation / total**0.5
    assert abs(samples.std() - deviation) < 3 * deviation / (2 * total) ** 0.5


@pytest.mark.parametrize(
    "parameter",
    [
        Categoricals(jnp.zeros((2, 3), jnp.bfloat16)).probs,
        TwoHot(jnp.zeros((2, 3), jnp.bfloat16)).logits,
        Bernoulli(jnp.zeros((), jnp.bfloat16)).logit,
        BoundedNormal(jnp.zeros(1, jnp.bfloat16), jnp.zeros(1, jnp.bfloat16)).stddev,
        Gaussians(jnp.zeros((2, 1), jnp.bfloat16), jnp.zeros((2, 1))).center,
        Gaussians(jnp.zeros((2, 1)), jnp.zeros((2, 1), jnp.bfloat16)).stddev,
    ],
)
def test_parameters_are_float32_whatever_the_compute_type(parameter):
    assert parameter.dtype == jnp.float32
