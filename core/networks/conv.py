"""Convolutions of DreamerV3's image networks, in a form that is fast on a CPU too.

Images are `[batch, height, width, channels]`. The resolution is halved and doubled on
*phases*: the four pixels of a 2 × 2 block, as channels. A 5 × 5 convolution at the high
resolution equals a 3 × 3 convolution at the low one, from or to four phases. The inner
loops are longer, and after upsampling 64 % of the multiplications are saved.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from core.networks.layers import RMSNorm, add_bias, truncated_normal

KERNEL = 5


class Conv(eqx.Module):
    """A 5 × 5 convolution with bias that changes the resolution by a factor of 2.

    Args:
        inputs, outputs: channels.
    """

    weight: Float[Array, "5 5 inputs outputs"]
    bias: Float[Array, " outputs"]

    def __init__(self, inputs: int, outputs: int, *, key: PRNGKeyArray):
        shape = (KERNEL, KERNEL, inputs, outputs)
        self.weight = truncated_normal(key, shape, KERNEL * KERNEL * inputs)
        self.bias = jnp.zeros(outputs, jnp.float32)

    def halved(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch h w outputs"]:
        """The convolution, then the maximum over each 2 × 2 block."""
        # A tap of one phase of the output reads one phase of the input.
        taps = _phase_taps()
        weight = jnp.einsum("piak,qjbl,klxy->ijabxpqy", taps, taps, self.weight)
        weight = weight.reshape(3, 3, 4 * x.shape[-1], -1).astype(x.dtype)
        phases = _convolve(_to_phases(x), weight)
        out = phases.reshape(*phases.shape[:-1], 4, -1).max(axis=-2)
        return add_bias(out, self.bias)

    def doubled(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch h w outputs"]:
        """Nearest-neighbour upsampling by 2, then the convolution."""
        # Both input phases of a doubled image are the same pixel.
        taps = jnp.sum(_phase_taps(), axis=2)
        weight = jnp.einsum("pik,qjl,klxy->ijxpqy", taps, taps, self.weight)
        weight = weight.reshape(3, 3, x.shape[-1], -1).astype(x.dtype)
        out = _from_phases(_convolve(x, weight))
        return add_bias(out, self.bias)


class ConvBlock(eqx.Module):
    """Convolution → RMSNorm over the channels → SiLU."""

    conv: Conv
    norm: RMSNorm

    def __init__(self, inputs: int, outputs: int, *, key: PRNGKeyArray):
        self.conv = Conv(inputs, outputs, key=key)
        self.norm = RMSNorm(outputs)

    def halved(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch h w outputs"]:
        """See `Conv.halved`."""
        return jax.nn.silu(self.norm(self.conv.halved(x)))

    def doubled(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch h w outputs"]:
        """See `Conv.doubled`."""
        return jax.nn.silu(self.norm(self.conv.doubled(x)))


@jax.custom_vjp
def _convolve(x: Array, weight: Array) -> Array:
    """The 3 × 3 convolution, with gradients that are fast inside loops on a CPU.

    JAX writes the gradients as convolutions with permuted dimensions. XLA's CPU backend
    reorders these only outside of loops; inside, as in training, it falls back to naive
    loops: an update of the `laptop` preset then takes 11 s instead of 0.34 s.
    """
    return _plain(x, weight)


def _plain(x: Array, weight: Array) -> Array:
    return jax.lax.conv_general_dilated(
        x, weight, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _forward(x: Array, weight: Array) -> tuple[Array, tuple[Array, Array]]:
    return _plain(x, weight), (x, weight)


def _backward(saved: tuple[Array, Array], out: Array) -> tuple[Array, Array]:
    def transposed(x: Array, weight: Array, out: Array) -> tuple[Array, Array]:
        return jax.vjp(_plain, x, weight)[1](out)

    return jax.lax.platform_dependent(*saved, out, cpu=_in_order, default=transposed)


def _in_order(x: Array, weight: Array, out: Array) -> tuple[Array, Array]:
    """Gradients of x and the weight, as convolutions in XLA's dimension order."""
    flipped = weight[::-1, ::-1].swapaxes(2, 3)
    # The gradient of a weight entry sums over the pixels of all images.
    by_weight = _plain(x.transpose(3, 1, 2, 0), out.transpose(1, 2, 0, 3))
    return _plain(out, flipped), by_weight.transpose(1, 2, 0, 3)


_convolve.defvjp(_forward, _backward)


def _phase_taps() -> Float[np.ndarray, "out_phase block in_phase tap"]:
    """Along one direction, 1 where a kernel tap (of 5) reads this phase of this block.

    An output pixel at 2n + p reads, by tap k, the input pixel at 2n + p + k − 2: phase
    (p + k) mod 2 of the block that is (p + k) div 2 − 1 from its own.
    """
    taps = np.zeros((2, 3, 2, KERNEL), np.float32)
    for phase in range(2):
        for tap in range(KERNEL):
            block, source = divmod(phase + tap, 2)
            taps[phase, block, source, tap] = 1.0
    return taps


def _to_phases(x: Array) -> Array:
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return x.swapaxes(2, 3).reshape(batch, height // 2, width // 2, 4 * channels)


def _from_phases(x: Array) -> Array:
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, 2, 2, channels // 4)
    return x.swapaxes(2, 3).reshape(batch, 2 * height, 2 * width, channels // 4)
