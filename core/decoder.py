"""Decoder of latent features into observations."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from core.nets import MLP, Linear
from core.transforms import symexp, symlog


class VectorDecoder(eqx.Module):
    """MLP whose output is the symlog of a vector observation.

    Args:
        feature_size: size of the latent features.
        obs_size: length of the observation.
        units, layers: width and number of hidden layers.
    """

    mlp: MLP
    out: Linear

    def __init__(
        self,
        feature_size: int,
        obs_size: int,
        *,
        key: PRNGKeyArray,
        units: int = 64,
        layers: int = 3,
    ):
        mlp_key, out_key = jax.random.split(key)
        self.mlp = MLP(feature_size, units, layers, key=mlp_key)
        self.out = Linear(units, obs_size, key=out_key)

    def __call__(
        self, features: Float[Array, "*batch features"]
    ) -> Float[Array, "*batch obs"]:
        """The predicted observation, in the observation's own units."""
        return symexp(self._symlog_prediction(features))

    def loss(
        self,
        features: Float[Array, "*batch features"],
        obs: Float[Array, "*batch obs"],
    ) -> Float[Array, "*batch"]:
        """Squared error in symlog space, summed over the observation's entries."""
        error = self._symlog_prediction(features) - symlog(obs)
        return jnp.sum(jnp.square(error), axis=-1)

    def _symlog_prediction(self, features: Array) -> Array:
        return self.out(self.mlp(features)).astype(jnp.float32)
