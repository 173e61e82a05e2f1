"""Encoder of observations into the embedding e that the posterior reads."""

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from core.nets import MLP
from core.transforms import symlog


class VectorEncoder(eqx.Module):
    """MLP over the symlog of a vector observation.

    Args:
        obs_size: length of the observation.
        units, layers: width and number of hidden layers.
    """

    mlp: MLP

    def __init__(
        self, obs_size: int, *, key: PRNGKeyArray, units: int = 64, layers: int = 3
    ):
        self.mlp = MLP(obs_size, units, layers, key=key)

    def __call__(self, obs: Float[Array, "*batch obs"]) -> Float[Array, "*batch embed"]:
        """Embedding of `units` numbers, in the module's own floating-point type."""
        dtype = self.mlp.layers[0].linear.weight.dtype
        return self.mlp(symlog(obs).astype(dtype))
