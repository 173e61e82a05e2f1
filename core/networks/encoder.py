"""Encoders: e = encoder(o), the embedding of an observation for the posterior."""

import equinox as eqx
import jax
from jaxtyping import Array, Float, Num, PRNGKeyArray

from core.networks.conv import ConvBlock
from core.networks.layers import MLP
from core.networks.transforms import merge, symlog, unmerge

# Channels of the four layers, as multiples of `depth`.
MULTIPLES = (2, 3, 4, 4)


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

    @property
    def embed_size(self) -> int:
        """Length of the embedding."""
        return self.mlp.layers[-1].linear.bias.size

    def __call__(self, obs: Float[Array, "*batch obs"]) -> Float[Array, "*batch embed"]:
        """Embedding of `units` numbers, in the module's own floating-point type."""
        dtype = self.mlp.layers[0].linear.weight.dtype
        return self.mlp(symlog(obs).astype(dtype))


class ImageEncoder(eqx.Module):
    """DreamerV3's image encoder: four convolutions that each halve the resolution.

    Args:
        shape: height and width, multiples of 16, and channels of an image.
        depth: the layers have 2, 3, 4 and 4 times as many channels.

    Raises:
        ValueError: the shape is not allowed.
    """

    layers: tuple[ConvBlock, ...]
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        key: PRNGKeyArray,
        depth: int = 4,
    ):
        check_image_shape(shape)
        channels = [shape[-1], *(depth * multiple for multiple in MULTIPLES)]
        keys = jax.random.split(key, len(MULTIPLES))
        self.layers = tuple(
            ConvBlock(i, o, key=k)
            for i, o, k in zip(channels, channels[1:], keys, strict=False)
        )
        self.shape = shape

    @property
    def embed_size(self) -> int:
        """Length of the embedding: the flattened output of the last layer."""
        height, width, _ = self.shape
        return height * width // 256 * self.layers[-1].conv.bias.size

    def __call__(
        self, obs: Num[Array, "*batch height width channels"]
    ) -> Float[Array, "*batch embed"]:
        """Embedding of an image, in the module's own floating-point type.

        Args:
            obs: uint8; or floats in the same scale, which may be out of its range
                (`envs.perturb` without clipping).
        """
        dtype = self.layers[0].conv.weight.dtype
        batch = obs.shape[:-3]
        x = merge(obs, len(batch)).astype(dtype) / 255 - 0.5
        for layer in self.layers:
            x = layer.halved(x)
        return unmerge(x.reshape(x.shape[0], -1), batch)


def check_image_shape(shape: tuple[int, ...]) -> None:
    """Raises ValueError unless an image can be halved four times."""
    if len(shape) != 3 or shape[0] % 16 or shape[1] % 16:
        raise ValueError(
            f"shape={shape}: images need (height, width, channels), height and width "
            "multiples of 16"
        )
