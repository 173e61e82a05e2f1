"""Transforms of DreamerV3: symlog, symexp, unimix, two-hot; merging of batch axes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped


def symlog(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """sign(x)·log(1 + |x|): compresses large magnitudes, identity near 0."""
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def symexp(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """sign(x)·(exp(|x|) − 1), the inverse of `symlog`."""
    return jnp.sign(x) * jnp.expm1(jnp.abs(x))


def unimix(
    logits: Float[Array, "*batch classes"], mix: float = 0.01
) -> Float[Array, "*batch classes"]:
    """Softmax probabilities mixed with the uniform distribution.

    (1 − mix)·softmax(logits) + mix/C: no probability is zero, so KL terms are finite.
    """
    probs = jax.nn.softmax(logits, axis=-1)
    return (1.0 - mix) * probs + mix / logits.shape[-1]


def symexp_bins(count: int = 255, low: float = -20.0) -> Float[Array, " count"]:
    """Two-hot support: symexp of `count` equally spaced points on [low, −low].

    The right half mirrors the left half exactly, so that a uniform distribution has
    expectation exactly 0. `count` must be odd.

    Raises:
        ValueError: if `count` is even or smaller than 3.
    """
    if count < 3 or count % 2 == 0:
        raise ValueError(f"count={count}: the number of bins must be odd and >= 3")
    half = symexp(jnp.linspace(low, 0.0, count // 2 + 1, dtype=jnp.float32))
    return jnp.concatenate([half, -half[:-1][::-1]])


def twohot_bins(
    target: Float[Array, "*batch"], bins: Float[Array, " count"]
) -> tuple[Int[Array, "*batch"], Float[Array, "*batch"]]:
    """Two-hot encoding of `target`: the index of its upper bin, and that bin's weight.

    The bin below has the remaining weight, so that the expectation is `target`. Targets
    outside the support are clipped to it.
    """
    target = jnp.clip(target, bins[0], bins[-1])
    upper = jnp.searchsorted(bins, target, side="right", method="scan_unrolled")
    upper = jnp.clip(upper, 1, bins.size - 1)
    low, high = bins[upper - 1], bins[upper]
    return upper, (target - low) / (high - low)


def twohot(
    target: Float[Array, "*batch"], bins: Float[Array, " count"]
) -> Float[Array, "*batch count"]:
    """Weights on the two bins around `target` whose expectation is `target`."""
    upper, weight = twohot_bins(target, bins)
    upper, weight = upper[..., None], weight[..., None]
    index = lift(jnp.arange(bins.size), upper.ndim)
    return jnp.where(index == upper - 1, 1.0 - weight, 0.0) + jnp.where(
        index == upper, weight, 0.0
    )


def lift(vector: Shaped[Array, " size"], ndim: int) -> Shaped[Array, "..."]:
    """The vector with leading axes of length one (rank promotion is an error)."""
    return vector.reshape((1,) * (ndim - 1) + vector.shape)


def merge(x: Shaped[Array, "..."], batch_axes: int = 2) -> Shaped[Array, "merged ..."]:
    """Merge all batch axes into one, the last of them outermost.

    `[time, batch, ...]` becomes `[batch · time, ...]`. If the batch is divided among
    devices, this order needs no communication between them.
    """
    last_first = jnp.moveaxis(x, batch_axes - 1, 0) if batch_axes else x
    return last_first.reshape(-1, *x.shape[batch_axes:])


def unmerge(
    x: Shaped[Array, "merged ..."], batch: tuple[int, ...]
) -> Shaped[Array, "..."]:
    """The inverse of `merge`: split the leading axis into axes of shape `batch`."""
    apart = x.reshape(*batch[-1:], *batch[:-1], *x.shape[1:])
    return jnp.moveaxis(apart, 0, len(batch) - 1) if batch else apart
