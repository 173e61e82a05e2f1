"""The image encoder and decoder."""

import functools
import itertools
import re

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from core.agent import Agent
from core.networks.conv import Conv
from core.networks.decoder import ImageDecoder
from core.networks.encoder import ImageEncoder
from core.networks.transforms import lift
from core.sizes import SIZES

# Encoder and decoder by hand from the layers' shapes, and the whole agent on walker.
COUNTS = {
    "400k": (14_304, 72_403, 415_230),
    "1m": (14_304, 80_595, 686_846),
    "12m": (220_416, 1_272_003, 10_494_158),
    "25m": (493_824, 2_857_635, 23_489_326),
    "50m": (876_032, 5_076_355, 41_650_062),
    "100m": (1_966_848, 11_413_059, 93_468_238),
    "200m": (3_492_864, 20_282_115, 165_948_686),
    "dreamerv2": (1_966_848, 5_328_003, 11_644_822),
}


def counted(depth, *, units, deter, latent):
    """Encoder and decoder of 64 × 64 × 3 images, layer by layer."""
    channels = [3, 2 * depth, 3 * depth, 4 * depth, 4 * depth]
    conv = lambda i, o: 25 * i * o + o
    encoder = sum(conv(i, o) + o for i, o in itertools.pairwise(channels))
    lowest = 4 * 4 * channels[-1]
    decoder = deter * lowest // 8 + lowest  # eight blocks
    decoder += latent * 2 * units + 2 * 2 * units + 2 * units * lowest + lowest
    decoder += channels[-1]  # the norm of their sum
    up = channels[:0:-1]
    decoder += sum(conv(i, o) + o for i, o in itertools.pairwise(up))
    return encoder, decoder + conv(up[-1], 3)


@pytest.mark.parametrize("name", list(SIZES))
def test_parameter_counts(name):
    size = SIZES[name]
    build = functools.partial(Agent, (64, 64, 3), 6, size=size)
    counts = eqx.filter_eval_shape(build, key=jax.random.key(0)).parameter_counts()
    found = counts["encoder"], counts["decoder"], counts["total"]
    assert found == COUNTS[name]
    assert found[:2] == counted(
        size.cnn_depth,
        units=size.units,
        deter=size.deter,
        latent=size.stoch * size.classes,
    )


def convolved(x, conv):
    """The 5 × 5 convolution at full resolution, zeros beyond the edge, by numpy."""
    height, width = x.shape[1:3]
    padded = np.pad(np.asarray(x), ((0, 0), (2, 2), (2, 2), (0, 0)))
    out = np.zeros((*x.shape[:3], conv.weight.shape[-1])) + np.asarray(conv.bias)
    for i in range(5):
        for j in range(5):
            out += padded[:, i : i + height, j : j + width] @ conv.weight[i, j]
    return out


@pytest.fixture
def conv(getkey):
    layer = Conv(3, 4, key=getkey())
    return eqx.tree_at(lambda c: c.bias, layer, jax.random.normal(getkey(), (4,)))


def test_halving_is_convolution_and_maximum(conv, getkey):
    x = jax.random.normal(getkey(), (2, 8, 6, 3))
    full = convolved(x, conv).reshape(2, 4, 2, 3, 2, 4)
    np.testing.assert_allclose(conv.halved(x), full.max((2, 4)), atol=1e-5)


def test_doubling_is_repetition_and_convolution(conv, getkey):
    x = jax.random.normal(getkey(), (2, 4, 3, 3))
    full = convolved(x.repeat(2, 1).repeat(2, 2), conv)
    np.testing.assert_allclose(conv.doubled(x), full, atol=1e-5)


def squares(conv, x):
    """Something of a halving and a doubling whose gradient reaches all of both."""
    return sum(jnp.sum(jnp.square(way(x))) for way in (conv.halved, conv.doubled))


def test_gradients_of_the_convolution(conv, getkey):
    x = jax.random.normal(getkey(), (2, 8, 12, 3))

    def full(conv, x):
        order = ("NHWC", "HWIO", "NHWC")
        out = jax.lax.conv_general_dilated(
            x, conv.weight, (1, 1), "SAME", dimension_numbers=order
        )
        return out + lift(conv.bias, out.ndim)

    def plain(conv, x):
        halved = full(conv, x).reshape(2, 4, 2, 6, 2, 4).max((2, 4))
        doubled = full(conv, x.repeat(2, 1).repeat(2, 2))
        return jnp.sum(jnp.square(halved)) + jnp.sum(jnp.square(doubled))

    both = lambda f: jax.grad(lambda args: f(*args))((conv, x))
    chex.assert_trees_all_close(both(squares), both(plain), rtol=2e-4, atol=2e-4)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="about XLA for CPUs")
def test_no_convolution_in_a_loop_has_permuted_dimensions(conv, getkey):
    """XLA for CPUs computes such ones in plain loops, many times slower."""
    x = jax.random.normal(getkey(), (2, 8, 12, 3))

    def program(conv, x):
        def step(carry, _):
            slopes = jax.grad(lambda args: squares(*args))(carry)
            return jax.tree.map(jnp.add, carry, slopes), None

        return jax.lax.scan(step, (conv, x), length=2)[0]

    text = jax.jit(program).lower(conv, x).compile().as_text() or ""
    labels = re.findall(r" convolution\(.*dim_labels=(\S+?)[,\s]", text)
    assert len(labels) == 6 and set(labels) == {"b01f_01io->b01f"}


def test_each_pixel_of_the_output_comes_from_its_own_place(getkey):
    """The embedding's top left corner sees the top left of the image only."""
    encoder = ImageEncoder((64, 64, 3), key=getkey(), depth=1)
    image = jnp.zeros((64, 64, 3), jnp.uint8)
    changed = encoder(image.at[60, 60].set(255)) != encoder(image)
    corners = np.asarray(changed).reshape(4, 4, -1).any(-1)
    assert corners[3, 3] and not corners[0].any() and not corners[:, 0].any()


def test_blocks_must_divide_the_channels(getkey):
    with pytest.raises(ValueError, match="blocks=8 must divide 4·depth=12"):
        ImageDecoder(16, 12, (32, 32, 3), key=getkey(), depth=3)


@pytest.mark.long
def test_any_batch_axes(getkey):
    encoder = ImageEncoder((32, 16, 3), key=getkey(), depth=2)
    decoder = ImageDecoder(16, 12, (32, 16, 3), key=getkey(), depth=2, units=8)
    images = jax.random.randint(getkey(), (2, 3, 32, 16, 3), 0, 256).astype(jnp.uint8)
    embeds = encoder(images)
    assert embeds.shape == (2, 3, encoder.embed_size) == (2, 3, 16)
    np.testing.assert_allclose(embeds[1, 2], encoder(images[1, 2]), atol=1e-5)
    features = jax.random.normal(getkey(), (2, 3, 28))
    predicted = decoder(features)
    assert predicted.shape == images.shape and predicted.dtype == jnp.float32
    assert jnp.all((predicted > 0) & (predicted < 1))
    np.testing.assert_allclose(
        decoder.loss(features, images),
        np.sum((np.asarray(predicted) - np.asarray(images) / 255) ** 2, (2, 3, 4)),
        rtol=1e-5,
    )


@pytest.mark.long
def test_every_feature_reaches_the_image(getkey):
    decoder = ImageDecoder(16, 12, (16, 16, 3), key=getkey(), depth=2, units=8)
    jacobian = jax.jacrev(lambda f: decoder(f).mean())(jnp.ones(28))
    assert jnp.all(jacobian != 0)


@pytest.mark.parametrize("shape", [(64, 60, 3), (64, 64), (24, 64, 3)])
def test_shapes_that_cannot_be_halved(shape, getkey):
    with pytest.raises(ValueError, match=r"multiples of 16"):
        ImageEncoder(shape, key=getkey())


def test_decoder_learns_one_image(getkey):
    """The loss falls tenfold, from features that do not change."""
    size = SIZES["1m"]
    y, x = np.mgrid[:64, :64]
    disc = (x - 40) ** 2 + (y - 24) ** 2 < 120
    image = np.stack([4 * y, np.where(disc, 220, 40), 255 - 3 * x], -1)
    image = jnp.asarray(image.clip(0, 255), jnp.uint8)
    latent = size.stoch * size.classes
    decoder = ImageDecoder(
        size.deter, latent, (64, 64, 3), key=getkey(), depth=4, units=64
    )
    features = jax.random.normal(getkey(), (size.deter + latent,))
    optimizer = optax.adam(3e-3)

    @jax.jit
    def learn(decoder):
        def step(carry, _):
            decoder, state = carry
            loss, gradient = jax.value_and_grad(
                lambda decoder: decoder.loss(features, image)
            )(decoder)
            updates, state = optimizer.update(gradient, state)
            return (eqx.apply_updates(decoder, updates), state), loss

        carry = (decoder, optimizer.init(decoder))
        return jax.lax.scan(step, carry, length=80)[1]

    losses = learn(decoder)
    assert losses[-1] < losses[0] / 10
