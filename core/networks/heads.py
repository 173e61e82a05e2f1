"""Heads on the latent features (h, z): reward, continue, value, policy."""

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from core.networks.dists import Bernoulli, BoundedNormal, TwoHot
from core.networks.layers import MLP, Linear


class TwoHotHead(eqx.Module):
    """MLP with a two-hot distribution over symexp bins: reward and value.

    The output layer starts at zero, so that untrained predictions are exactly 0.
    """

    mlp: MLP
    out: Linear

    def __init__(
        self,
        features: int,
        units: int,
        layers: int,
        *,
        key: PRNGKeyArray,
        bins: int = 255,
    ):
        mlp_key, out_key = jax.random.split(key)
        self.mlp = MLP(features, units, layers, key=mlp_key)
        self.out = Linear(units, bins, key=out_key, scale=0.0)

    def __call__(self, features: Float[Array, "*batch features"]) -> TwoHot:
        return TwoHot(self.out(self.mlp(features)))


class ContinueHead(eqx.Module):
    """MLP with the probability that the episode continues, times the discount γ."""

    mlp: MLP
    out: Linear

    def __init__(self, features: int, units: int, layers: int, *, key: PRNGKeyArray):
        mlp_key, out_key = jax.random.split(key)
        self.mlp = MLP(features, units, layers, key=mlp_key)
        self.out = Linear(units, 1, key=out_key)

    def __call__(self, features: Float[Array, "*batch features"]) -> Bernoulli:
        return Bernoulli(self.out(self.mlp(features))[..., 0])


class PolicyHead(eqx.Module):
    """MLP with a bounded normal over actions; its output layers start near zero."""

    mlp: MLP
    mean: Linear
    stddev: Linear

    def __init__(
        self,
        features: int,
        units: int,
        layers: int,
        action_size: int,
        *,
        key: PRNGKeyArray,
    ):
        mlp_key, mean_key, stddev_key = jax.random.split(key, 3)
        self.mlp = MLP(features, units, layers, key=mlp_key)
        self.mean = Linear(units, action_size, key=mean_key, scale=0.01)
        self.stddev = Linear(units, action_size, key=stddev_key, scale=0.01)

    def __call__(self, features: Float[Array, "*batch features"]) -> BoundedNormal:
        hidden = self.mlp(features)
        return BoundedNormal(self.mean(hidden), self.stddev(hidden))
