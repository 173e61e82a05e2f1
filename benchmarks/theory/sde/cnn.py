"""Theorem A.6 by example: convolutional encoders and decoders of a curved 2-manifold.

The theorem: CNNs with ReLUs and down-sampling approximate an oracle encoder g and
decoder ḡ, with an error that is a power of the network size whose exponent depends on
the manifold's dimension, not on the data's. Here ḡ is known: it maps a point z of the
unit disc to a signal of length 32, a bump whose position and width are the coordinates
of z. Networks of increasing width are trained to approximate g and ḡ. The mean
distances are upper bounds of the theorem's W1, as in its proof; the round-trip error is
decoder(encoder(x)) − x.

The theorem is about the best network of a given size, so the best of several seeds is
reported; optimization adds an error, mostly in the smallest networks (dead ReLUs).
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
    """One width: number of parameters, and errors by seed.

    Attributes:
        parameters: of encoder plus decoder.
        encoder: mean distance ‖g(x) − z‖ on held-out points of the unit disc.
        decoder, round_trip: mean over held-out signals of the RMS error, for bumps of
            height 1.
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
    """Points uniform in the unit disc, (count, 2)."""
    radius, angle = jax.random.split(key)
    r = jnp.sqrt(jax.random.uniform(radius, (count,)))
    turn = 2 * jnp.pi * jax.random.uniform(angle, (count,))
    return jnp.stack([r * jnp.cos(turn), r * jnp.sin(turn)], axis=1)


def _convolve(x: Array, weight: Array, bias: Array) -> Array:
    """Convolve x (batch, length, in) with a weight (kernel·in, out), as one product."""
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
    """Train an encoder and a decoder; returns the three errors on held-out points."""
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
    """Train every width; `quick` has fewer widths, seeds and steps."""
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
    """The exponent in error ∝ parameters^slope, fitted to the best seed per size."""
    errors = [np.log(min(getattr(size, what))) for size in sizes]
    return float(np.polyfit(np.log([s.parameters for s in sizes]), errors, 1)[0])
