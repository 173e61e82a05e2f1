"""Decoders of latent features into observations."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from core.networks.conv import Conv, ConvBlock
from core.networks.encoder import MULTIPLES, check_image_shape
from core.networks.layers import MLP, BlockLinear, Dense, Linear, RMSNorm, add_bias
from core.networks.transforms import merge, symexp, symlog, unmerge


class VectorDecoder(eqx.Module):
    """MLP whose output is the symlog of a vector observation.

    Args:
        feature_size: size of the latent features.
        obs_size: length of the observation.
        obs_entries: sizes of the observation's parts. DreamerV3 has an output layer for
            each; here they are the `parts` of one layer.
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
        obs_entries: tuple[int, ...] = (),
        units: int = 64,
        layers: int = 3,
    ):
        mlp_key, out_key = jax.random.split(key)
        self.mlp = MLP(feature_size, units, layers, key=mlp_key)
        self.out = Linear(units, obs_size, key=out_key, parts=obs_entries)

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


class ImageDecoder(eqx.Module):
    """DreamerV3's image decoder, the mirror of `core.networks.encoder.ImageEncoder`.

    A block-diagonal layer maps h, and an MLP of width 2·`units` maps z, to the lowest
    resolution. Four upsampling convolutions follow.

    Args:
        deter, latent: lengths of h and of the flattened z in the features.
        shape: height and width, multiples of 16, and channels of an image.
        depth: the layers have 4, 4, 3 and 2 times as many channels.
        units: half the width of the hidden layer for z.
        blocks: blocks of the layer for h.

    Raises:
        ValueError: the shape is not allowed, or `blocks` does not divide `deter`
            or the 4·`depth` channels of the lowest resolution.
    """

    from_deter: BlockLinear
    from_stoch: tuple[Dense, Linear]
    norm: RMSNorm
    layers: tuple[ConvBlock, ...]
    out: Conv
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        deter: int,
        latent: int,
        shape: tuple[int, ...],
        *,
        key: PRNGKeyArray,
        depth: int = 4,
        units: int = 64,
        blocks: int = 8,
    ):
        check_image_shape(shape)
        channels = [depth * multiple for multiple in reversed(MULTIPLES)]
        if channels[0] % blocks:
            raise ValueError(
                f"blocks={blocks} must divide 4·depth={channels[0]}, the channels of "
                "the lowest resolution"
            )
        keys = jax.random.split(key, 3 + len(channels))
        lowest = shape[0] // 16 * (shape[1] // 16) * channels[0]
        self.from_deter = BlockLinear(deter, lowest, blocks, key=keys[0])
        self.from_stoch = (
            Dense(latent, 2 * units, key=keys[1]),
            Linear(2 * units, lowest, key=keys[2]),
        )
        self.norm = RMSNorm(channels[0])
        self.layers = tuple(
            ConvBlock(i, o, key=k)
            for i, o, k in zip(channels, channels[1:], keys[3:], strict=False)
        )
        self.out = Conv(channels[-1], shape[-1], key=keys[-1])
        self.shape = shape

    def __call__(
        self, features: Float[Array, "*batch features"]
    ) -> Float[Array, "*batch height width channels"]:
        """The predicted image, values in [0, 1]."""
        batch = features.shape[:-1]
        x = self._lowest(merge(features, len(batch)))
        for layer in self.layers:
            x = layer.doubled(x)
        image = jax.nn.sigmoid(self.out.doubled(x).astype(jnp.float32))
        return unmerge(image, batch)

    def loss(
        self,
        features: Float[Array, "*batch features"],
        obs: UInt8[Array, "*batch height width channels"],
    ) -> Float[Array, "*batch"]:
        """Squared error of the image in [0, 1], summed over pixels and channels."""
        error = self(features) - obs.astype(jnp.float32) / 255
        return jnp.sum(jnp.square(error), axis=(-3, -2, -1))

    def _lowest(
        self, features: Float[Array, "batch features"]
    ) -> Float[Array, "batch h w channels"]:
        """The lowest resolution; each block of h gives some of the channels."""
        weight = self.from_deter.weight
        blocks, inputs, _ = weight.shape
        height, width = self.shape[0] // 16, self.shape[1] // 16
        split = blocks * inputs
        deter, stoch = features[:, :split], features[:, split:]
        grouped = jnp.einsum(
            "ngi,gio->ngo", deter.reshape(-1, blocks, inputs), weight
        ).reshape(-1, math.prod(weight.shape[::2]))
        grouped = add_bias(grouped, self.from_deter.bias)
        channels = self.norm.scale.size
        x = grouped.reshape(-1, blocks, height, width, channels // blocks)
        x = jnp.moveaxis(x, 1, 3).reshape(-1, height, width, channels)
        hidden, out = self.from_stoch
        return jax.nn.silu(self.norm(x + out(hidden(stoch)).reshape(x.shape)))
