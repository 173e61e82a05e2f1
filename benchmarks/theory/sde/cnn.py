"""Theorem A.6 by example: convolutional encoders and decoders of a curved 2-manifold.

The theorem says that maps made of convolutions, ReLUs and down-sampling come
arbitrarily close to an oracle encoder g and decoder ḡ, with an error that falls as a
power of the network's size, one set by the manifold's dimension and not by the data's.
Here ḡ is known: it turns a point z of the unit disc into a signal of 32 numbers, a bump
whose place and width are z's coordinates. Networks of growing width learn g and ḡ by
gradient descent. The mean distances are upper bounds of the theorem's W1, as in its
proof; the round trip decoder(encoder(x)) − x is what a world model sees.

The theorem is about the best network of a size, so the best of several seeds is
shown; training adds its own error, above all to the smallest (dead ReLUs).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

LENGTH, DIMENSION, KERNEL = 32, 2, 5
_BATCH, _HELD_OUT = 128, 2048

Params = dict[str, Array]


class Sizes(NamedTuple):
    """One width: its parameters and errors, seed by seed.

    Attributes:
        parameters: of the encoder and the decoder together.
        encoder: mean distance ‖g(x) − z‖ on held-out points, the disc's radius being 1.
        decoder, round_trip: mean over held-out signals of the root mean square error,
            the bump's height being 1.
    """

    width: int
    parameters: int
    encoder: list[float]
    decoder: list[float]
    round_trip: list[float]


def oracle(z: Array) -> Array:
    """ḡ: points of the disc (batch, 2) to signals (batch, 32)."""
    place = (LENGTH - 1) / 2 + 8.0 * z[:, :1]
    width = 3.0 + 1.2 * z[:, 1:]
    return jnp.exp(-0.5 * ((jnp.arange(LENGTH)[None] - place) / width) ** 2)


def disc(key: Array, count: int) -> Array:
    """Points spread evenly over the unit disc."""
    radius, angle = jax.random.split(key)
    r = jnp.sqrt(jax.random.uniform(radius, (count,)))
    turn = 2 * jnp.pi * jax.random.uniform(angle, (count,))
    return jnp.stack([r * jnp.cos(turn), r * jnp.sin(turn)], axis=1)


def _convolve(x: Array, weight: Array, bias: Array) -> Array:
    """(batch, length, in) by (kernel·in, out), as one product."""
    half = KERNEL // 2
    padded = jnp.pad(x, ((0, 0), (half, half), (0, 0)))
    windows = [padded[:, i : i + x.shape[1]] for i in range(KERNEL)]
    return jnp.concatenate(windows, axis=-1) @ weight + bias[None, None]


def _encode(p: Params, x: Array) -> Array:
    hidden = jax.nn.relu(_convolve(x[..., None], p["e1"], p["e1b"]))[:, ::2]
    hidden = jax.nn.relu(_convolve(hidden, p["e2"], p["e2b"]))[:, ::2]
    return hidden.reshape(len(x), -1) @ p["e3"] + p["e3b"][None]


def _decode(p: Params, z: Array) -> Array:
    hidden = jax.nn.relu(z @ p["d1"] + p["d1b"][None])
    hidden = jnp.repeat(hidden.reshape(len(z), LENGTH // 4, -1), 2, axis=1)
    hidden = jax.nn.relu(_convolve(hidden, p["d2"], p["d2b"]))
    return _convolve(jnp.repeat(hidden, 2, axis=1), p["d3"], p["d3b"])[..., 0]


def _initial(key: Array, width: int) -> Params:
    flat = LENGTH // 4 * width
    shapes = {
        "e1": (KERNEL, width),
        "e2": (KERNEL * width, width),
        "e3": (flat, DIMENSION),
        "d1": (DIMENSION, flat),
        "d2": (KERNEL * width, width),
        "d3": (KERNEL * width, 1),
    }
    params = {}
    for name, (fan_in, out) in shapes.items():
        key, now = jax.random.split(key)
        params[name] = jax.random.normal(now, (fan_in, out)) * np.sqrt(2 / fan_in)
        params[name + "b"] = jnp.zeros(out)
    return params


def _train(key: Array, width: int, steps: int) -> tuple[Array, Array, Array]:
    """Train one encoder and one decoder; their three errors on held-out points."""
    start, data, held_out = jax.random.split(key, 3)
    params = _initial(start, width)
    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, steps))

    def loss(p: Params, z: Array) -> Array:
        x = oracle(z)
        wrong = jnp.mean(jnp.sum((_encode(p, x) - z) ** 2, axis=1))
        return wrong + jnp.mean((_decode(p, z) - x) ** 2)

    def update(carry, key: Array):
        params, state = carry
        gradient = jax.grad(loss)(params, disc(key, _BATCH))
        change, state = optimizer.update(gradient, state)
        return (jax.tree.map(jnp.add, params, change), state), None

    begin = (params, optimizer.init(params))
    (params, _), _ = jax.lax.scan(update, begin, jax.random.split(data, steps))
    z = disc(held_out, _HELD_OUT)
    x = oracle(z)
    code = _encode(params, x)
    rms = lambda wrong: jnp.mean(jnp.sqrt(jnp.mean(wrong**2, axis=1)))
    return (
        jnp.mean(jnp.linalg.norm(code - z, axis=1)),
        rms(_decode(params, z) - x),
        rms(_decode(params, code) - x),
    )


def study(*, quick: bool, progress: Callable[[float], None]) -> list[Sizes]:
    """Train every width; quick trains fewer, smaller and shorter."""
    widths, seeds, steps = ((2, 4, 8), 3, 600) if quick else ((2, 4, 8, 16), 5, 2500)
    keys = jax.random.split(jax.random.key(0), seeds)
    found = []
    for index, width in enumerate(widths):
        run = jax.jit(jax.vmap(partial(_train, width=width, steps=steps)))
        encoder, decoder, round_trip = (np.asarray(e).tolist() for e in run(keys))
        shapes = jax.eval_shape(partial(_initial, width=width), keys[0])
        count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
        found.append(Sizes(width, count, encoder, decoder, round_trip))
        progress((index + 1) / len(widths))
    return found


def slope(sizes: list[Sizes], what: str) -> float:
    """The fitted power: error ∝ parameters^slope, of the best seed of every size."""
    errors = [np.log(min(getattr(size, what))) for size in sizes]
    return float(np.polyfit(np.log([s.parameters for s in sizes]), errors, 1)[0])
