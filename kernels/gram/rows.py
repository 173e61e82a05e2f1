"""The loop over rows: all products of the penalty with H entries per row."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.gram.forward import Forward, Settings
from kernels.sharding import over_states

CPU_STEP_ENTRIES = 2**18
"""Entries of each array [rows, n, H] in one step of the loop on a CPU: 1 MiB."""


class RowProducts(NamedTuple):
    """Sums over rows and probes, and the products that go back to δ."""

    xv: Float[Array, "n h"]
    """Σ x⊙v."""
    yy: Float[Array, "h h"]
    """Σ weight · y yᵀ."""
    w_bar: Float[Array, "k c h"]
    """Σ weight · δ (D⊙x)ᵀ."""
    back: Float[Array, "m k n c"]
    """W_iᵀ(D⊙x_i)."""


class RowArrays(NamedTuple):
    """One step of the loop."""

    y: Float[Array, "k n h"]
    gate_x: Float[Array, "k n h"]
    """D⊙x."""
    xv: Float[Array, "n h"]
    """Σ_i x_i⊙v_i."""


def row_block(rows: int, n: int, h: int) -> int:
    """Rows in one step of the loop: a divisor of their number.

    On a CPU the arrays of one step should fit into the cache; an accelerator takes all
    rows in one launch. This changes only the speed.
    """
    if jax.default_backend() != "cpu":
        return rows
    fitting = max(1, CPU_STEP_ENTRIES // (n * h))
    return max(
        block for block in range(1, rows + 1) if rows % block == 0 and block <= fitting
    )


def _loop(body, carry, xs):
    """`lax.scan`, without a loop if there is only one step."""
    if jax.tree.leaves(xs)[0].shape[0] > 1:
        return jax.lax.scan(body, carry, xs)
    carry, ys = body(carry, jax.tree.map(lambda x: x[0], xs))
    return carry, jax.tree.map(lambda y: y[None], ys)


def sum_xv(settings: Settings, fwd: Forward) -> Float[Array, "n h"]:
    """Σ x⊙v over rows and probes, which is enough for the value."""

    def probe(total, xs):
        def block(total, xs):
            return total + _rows(settings, fwd, *xs).xv, None

        return _loop(block, total, _blocks(settings, fwd, *xs))[0], None

    return _loop(probe, jnp.zeros_like(fwd.a), (fwd.delta, fwd.k))[0]


def row_products(
    settings: Settings, fwd: Forward, weight: Float[Array, "n 1"] | None
) -> RowProducts:
    """The large products of value and gradient; `weight` None means 1."""
    dot = settings.dot

    def probe(carry, xs):
        def block(carry, xs):
            xv, yy = carry
            delta, _, w = xs
            rows = _rows(settings, fwd, *xs)
            wy = rows.y if weight is None else rows.y * weight[None]
            wdelta = delta if weight is None else delta * weight[None]
            yy = yy + _outer(settings, fwd, xs, rows.y, wy)
            return (xv + rows.xv, yy), (
                dot("knc,knh->kch", wdelta, rows.gate_x),
                dot("knh,kch->knc", rows.gate_x, w),
            )

        *sums, w_bar = carry
        sums, (w_part, back) = _loop(block, tuple(sums), _blocks(settings, fwd, *xs))
        w_bar = w_bar + w_part.reshape(w_bar.shape)
        return (*sums, w_bar), back.reshape(xs[0].shape)

    zeros = (
        jnp.zeros_like(fwd.a),
        jnp.zeros_like(fwd.gram),
        jnp.zeros(fwd.w.shape, settings.wide),
    )
    (xv, yy, w_bar), back = _loop(probe, zeros, (fwd.delta, fwd.k))
    return RowProducts(xv, yy, w_bar, back)


def _rows(
    settings: Settings, fwd: Forward, delta: Array, k: Array, w: Array
) -> RowArrays:
    if settings.kernel:
        # Imported here: it takes a second, and not every platform has Mosaic GPU.
        from kernels.pallas.kernel import row_arrays

        run = partial(row_arrays, dtype=settings.operand, interpret=settings.interpret)
        return RowArrays(
            *over_states(run, delta, k[..., 0], w, fwd.gate, fwd.a, fwd.gram)
        )
    gate = fwd.gate[None]
    v = settings.dot("knc,kch->knh", delta, w)
    y = gate * v - k * fwd.a[None]
    x = settings.dot("knh,hg->kng", y, fwd.gram)
    return RowArrays(y, gate * x, jnp.sum(x * v, axis=0))


def _outer(
    settings: Settings,
    fwd: Forward,
    xs: tuple[Array, Array, Array],
    y: Array,
    wy: Array,
) -> Float[Array, "h h"]:
    """Σ y (weight·y)ᵀ over the rows of one step, from weight·y."""
    dot = settings.dot
    if settings.kernel or jax.default_backend() != "cpu":
        return dot("knh,kng->hg", y, wy)
    delta, k, w = xs
    # XLA's CPU backend transposes a left factor entry by entry. Computing yᵀ by its own
    # small product is much cheaper.
    v = dot("kch,knc->khn", w, delta)
    transposed = fwd.gate.T[None] * v - k.swapaxes(1, 2) * fwd.a.T[None]
    return jnp.sum(dot("khn,kng->khg", transposed, wy), axis=0)


def _blocks(
    settings: Settings, fwd: Forward, delta: Array, k: Array
) -> tuple[Array, Array, Array]:
    rows = fwd.w.shape[0]
    block = rows if settings.kernel else row_block(rows, *fwd.a.shape)
    return jax.tree.map(lambda x: x.reshape(-1, block, *x.shape[1:]), (delta, k, fwd.w))
