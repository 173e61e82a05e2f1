"""Output distributions of DreamerV3's heads.

Their parameters are float32, whatever the compute type.
"""

import abc
import math
from collections.abc import Sequence
from functools import partial
from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from core.networks.transforms import lift, symexp_bins, twohot_bins, unimix


class LatentDist(eqx.Module):
    """Distribution of the K variables of a latent z."""

    @abc.abstractmethod
    def mean(self) -> Float[Array, "*batch K C"]:
        """The expectation of z."""

    @abc.abstractmethod
    def entropy(self) -> Float[Array, "*batch"]:
        """Entropy in nats, summed over the K variables."""

    @abc.abstractmethod
    def kl(self, other: Self) -> Float[Array, "*batch"]:
        """KL(self ‖ other) in nats, summed over the K variables."""

    @abc.abstractmethod
    def kl_nearby(self, other: Self) -> Float[Array, "*batch"]:
        """`kl` without cancellation, for distributions that are close to each other."""


class Categoricals(LatentDist):
    """K independent one-hot categoricals, mixed with a uniform one of weight `mix`.

    Args:
        logits: unnormalised scores `[*batch, K, C]`.
        mix: share of the uniform distribution (DreamerV3: 0.01).
    """

    probs: Float[Array, "*batch K C"]

    def __init__(self, logits: Float[Array, "*batch K C"], mix: float = 0.01):
        self.probs = unimix(logits.astype(jnp.float32), mix)

    def sample(self, key: PRNGKeyArray) -> Float[Array, "*batch K C"]:
        """One-hot sample without gradient, by inverting the cumulative distribution.

        This takes one random number per categorical; the Gumbel trick takes C.
        """
        return onehot_from_uniform(
            self.probs, jax.random.uniform(key, self.probs.shape[:-1])
        )

    def mean(self) -> Float[Array, "*batch K C"]:
        """The probabilities."""
        return self.probs

    def straight_through(
        self, onehot: Float[Array, "*batch K C"]
    ) -> Float[Array, "*batch K C"]:
        """The sample with the gradient of its probabilities."""
        # In this order the value stays exactly one-hot: p − p is 0, whereas
        # (1 + p) − p need not be 1.
        return onehot + (self.probs - jax.lax.stop_gradient(self.probs))

    def entropy(self) -> Float[Array, "*batch"]:
        """Entropy in nats, summed over the K categoricals."""
        return -jnp.sum(self.probs * jnp.log(self.probs), axis=(-2, -1))

    def kl(self, other: Self) -> Float[Array, "*batch"]:
        """KL(self ‖ other) in nats, summed over the K categoricals."""
        ratio = jnp.log(self.probs) - jnp.log(other.probs)
        return jnp.sum(self.probs * ratio, axis=(-2, -1))

    def kl_nearby(self, other: Self) -> Float[Array, "*batch"]:
        """`kl` without cancellation, for distributions that are close to each other.

        With t = (q − p)/p, KL(p ‖ q) = Σ p·(t − log(1 + t)), as Σ p·t = 0: no term is
        negative. The terms of `kl` cancel to rounding errors.
        """
        t = (other.probs - self.probs) / self.probs
        return jnp.sum(self.probs * _excess(t), axis=(-2, -1))


class Gaussians(LatentDist):
    """K independent normal numbers, with s = softplus(raw) + floor.

    Args:
        center: m.
        raw_stddev: of which the standard deviation s is made.
        floor: lower bound of s (PlaNet: 0.1).
    """

    center: Float[Array, "*batch K 1"]
    stddev: Float[Array, "*batch K 1"]

    def __init__(
        self,
        center: Float[Array, "*batch K 1"],
        raw_stddev: Float[Array, "*batch K 1"],
        floor: float = 0.1,
    ):
        wide = jnp.promote_types(center.dtype, jnp.float32)
        self.center = center.astype(wide)
        self.stddev = jax.nn.softplus(raw_stddev.astype(wide)) + floor

    def mean(self) -> Float[Array, "*batch K 1"]:
        """m."""
        return self.center

    def at(self, noise: Float[Array, "*batch K 1"]) -> Float[Array, "*batch K 1"]:
        """m + s · noise: a sample with its gradient, for standard normal noise."""
        return self.center + self.stddev * noise

    def entropy(self) -> Float[Array, "*batch"]:
        """Differential entropy in nats, summed over the K numbers; may be negative."""
        constant = 0.5 * jnp.log(2.0 * jnp.pi) + 0.5
        return jnp.sum(jnp.log(self.stddev) + constant, axis=(-2, -1))

    def kl(self, other: Self) -> Float[Array, "*batch"]:
        """KL(self ‖ other) in nats, summed over the K numbers.

            log(s₂/s₁) + (s₁² + (m₁ − m₂)²)/(2 s₂²) − 1/2
                = (t − log(1 + t)) + (t² + d²)/2

        with t = (s₁ − s₂)/s₂ and d = (m₁ − m₂)/s₂: a sum of terms that are not
        negative, which do not cancel where the two are close.
        """
        t = (self.stddev - other.stddev) / other.stddev
        d = (self.center - other.center) / other.stddev
        squares = 0.5 * (jnp.square(t) + jnp.square(d))
        return jnp.sum(_excess(t) + squares, axis=(-2, -1))

    def kl_nearby(self, other: Self) -> Float[Array, "*batch"]:
        """`kl`, which does not cancel."""
        return self.kl(other)


def _excess(t: Array) -> Array:
    """t − log(1 + t), without cancellation near 0."""
    series = t**2 * (1 / 2 - t * (1 / 3 - t * (1 / 4 - t / 5)))
    return jnp.where(jnp.abs(t) < 0.02, series, t - jnp.log1p(t))


def normal_from_uniform(uniform: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Standard normal numbers from uniform ones, by the inverse distribution function.

    Args:
        uniform: as `jax.random.uniform` draws them: multiples of the type's precision
            in [0, 1), 0 included. Half a multiple is added, so that the numbers are
            symmetric about 0 and finite; in float32 they reach ±5.3.
    """
    middle = uniform + jnp.finfo(uniform.dtype).eps / 2
    return math.sqrt(2.0) * jax.lax.erf_inv(2.0 * middle - 1.0)


def onehot_from_uniform(
    probs: Float[Array, "*batch K C"], uniform: Float[Array, "*batch K"]
) -> Float[Array, "*batch K C"]:
    """One-hot of the class that the inverse cumulative distribution gives."""
    classes = probs.shape[-1]
    # The cumulative sum as a product with a triangle of ones, which every backend
    # vectorises. The last edge is omitted: rounding may put it below 1.
    triangle = jnp.triu(jnp.ones((classes, classes), probs.dtype))[:, :-1]
    edges = jnp.matmul(
        jax.lax.stop_gradient(probs), triangle, precision=jax.lax.Precision.HIGHEST
    )
    index = jnp.sum(uniform[..., None] >= edges, axis=-1)
    return jax.nn.one_hot(index, classes, dtype=probs.dtype)


class TwoHot(eqx.Module):
    """Categorical over the 255 symexp-spaced bins (DreamerV3's reward and value).

    Args:
        logits: `[*batch, bins]`.
    """

    logits: Float[Array, "*batch bins"]

    def __init__(self, logits: Float[Array, "*batch bins"]):
        self.logits = logits.astype(jnp.float32)

    def mean(self) -> Float[Array, "*batch"]:
        """Expectation over the bins, exactly 0 for uniform logits.

        Mirrored probabilities are subtracted *before* they are multiplied by the bin b,
        which reaches 4.9e8. In a compiled program p·b + p·(−b) is not 0: one product is
        fused into the addition without rounding.
        """
        count = self.logits.shape[-1]
        upper = lift(symexp_bins(count)[count // 2 + 1 :], self.logits.ndim)
        shift = jnp.max(self.logits, axis=-1, keepdims=True)
        mass = jnp.exp(self.logits - jax.lax.stop_gradient(shift))
        above = mass[..., count // 2 + 1 :]
        below = mass[..., : count // 2][..., ::-1]
        return jnp.sum((above - below) * upper, axis=-1) / jnp.sum(mass, axis=-1)

    def loss(self, target: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        """Cross-entropy in nats against the two-hot encoding of `target`."""
        return self.losses((target,), (1.0,))

    def losses(
        self,
        targets: Sequence[Float[Array, "*batch"]],
        scales: Sequence[float],
    ) -> Float[Array, "*batch"]:
        """Sum of the cross-entropies against several targets, each times its scale."""
        wide = jnp.stack([target.astype(jnp.float32) for target in targets])
        return _cross_entropies(self.logits, jax.lax.stop_gradient(wide), tuple(scales))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _cross_entropies(
    logits: Float[Array, "*batch bins"],
    targets: Float[Array, "n *batch"],
    scales: tuple[float, ...],
) -> Float[Array, "*batch"]:
    """Σ_i scale_i·CE(softmax(logits), twohot(target_i)).

    The hand-written gradient needs no array of two-hot weights: the loss reads two
    logits per target, and the gradient is one pass over the logits.
    """
    return _cross_entropies_forward(logits, targets, scales)[0]


def _cross_entropies_forward(logits: Array, targets: Array, scales: tuple[float, ...]):
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    loss = sum(scales) * normalizer
    upper, weight = twohot_bins(targets, symexp_bins(logits.shape[-1]))
    pick = lambda index: jnp.take_along_axis(logits, index[..., None], -1)[..., 0]
    for index, share, scale in zip(upper, weight, scales, strict=True):
        loss -= scale * ((1.0 - share) * pick(index - 1) + share * pick(index))
    return loss, (logits, normalizer, upper, weight)


def _cross_entropies_backward(scales: tuple[float, ...], kept, cotangent: Array):
    logits, normalizer, upper, weight = kept
    mass = sum(scales) * jnp.exp(logits - normalizer[..., None])
    bins = lift(jnp.arange(logits.shape[-1]), logits.ndim)
    for index, share, scale in zip(upper, weight, scales, strict=True):
        index, share = index[..., None], share[..., None]
        mass -= jnp.where(bins == index - 1, scale * (1.0 - share), 0.0)
        mass -= jnp.where(bins == index, scale * share, 0.0)
    return cotangent[..., None] * mass, jnp.zeros((len(scales), *logits.shape[:-1]))


_cross_entropies.defvjp(_cross_entropies_forward, _cross_entropies_backward)


class Bernoulli(eqx.Module):
    """Bernoulli with log-odds `logit`; targets may be any number in [0, 1]."""

    logit: Float[Array, "*batch"]

    def __init__(self, logit: Float[Array, "*batch"]):
        self.logit = logit.astype(jnp.float32)

    def mean(self) -> Float[Array, "*batch"]:
        """Probability of 1."""
        return jax.nn.sigmoid(self.logit)

    def loss(self, target: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        """Cross-entropy in nats."""
        return -(
            target * jax.nn.log_sigmoid(self.logit)
            + (1.0 - target) * jax.nn.log_sigmoid(-self.logit)
        )


class BoundedNormal(eqx.Module):
    """Normal with mean tanh(m) and standard deviation lo + (hi−lo)·σ(s+2).

    Samples are not squashed: the environment clips them to [−1, 1].
    """

    mean: Float[Array, "*batch action"]
    stddev: Float[Array, "*batch action"]

    def __init__(
        self,
        raw_mean: Float[Array, "*batch action"],
        raw_stddev: Float[Array, "*batch action"],
        low: float = 0.1,
        high: float = 1.0,
    ):
        self.mean = jnp.tanh(raw_mean.astype(jnp.float32))
        scale = jax.nn.sigmoid(raw_stddev.astype(jnp.float32) + 2.0)
        self.stddev = low + (high - low) * scale

    def mode(self) -> Float[Array, "*batch action"]:
        """The mean."""
        return self.mean

    def sample(self, key: PRNGKeyArray) -> Float[Array, "*batch action"]:
        """One sample per batch element, not clipped."""
        return self.at(jax.random.normal(key, self.mean.shape, self.mean.dtype))

    def at(self, noise: Float[Array, "*batch action"]) -> Float[Array, "*batch action"]:
        """mean + stddev · noise."""
        return self.mean + self.stddev * noise

    def log_prob(self, action: Float[Array, "*batch action"]) -> Float[Array, "*batch"]:
        """Log density, summed over the action dimensions."""
        scaled = (action - self.mean) / self.stddev
        constant = 0.5 * jnp.log(2.0 * jnp.pi)
        return jnp.sum(
            -0.5 * jnp.square(scaled) - jnp.log(self.stddev) - constant, axis=-1
        )

    def entropy(self) -> Float[Array, "*batch"]:
        """Entropy in nats, summed over the action dimensions."""
        constant = 0.5 * jnp.log(2.0 * jnp.pi) + 0.5
        return jnp.sum(jnp.log(self.stddev) + constant, axis=-1)
