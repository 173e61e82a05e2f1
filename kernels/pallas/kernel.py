"""The row products of the penalty as one fused kernel for NVIDIA Hopper GPUs.

For every row i of every state `kernels.gram.rows` needs ``v = W_i δ_i``,
``y = D⊙v − k a`` and ``x = G y``; it returns y, D⊙x and Σ_i x⊙v. XLA makes four passes
over arrays with H entries per row. Here v and x stay in registers, and only the results
are written to global memory.

A thread block processes 64 states and some of the rows. G and the states' D stay in
shared memory, so the Gram matrix is read once for all rows of the block. A warpgroup
computes `Tiling.columns` of the H columns. Every warpgroup needs the whole y, as the
left operand of ``y G``; they exchange no other array. Each block writes a partial sum
over its rows, and XLA adds these in a fixed order, so results are reproducible.

Sums are float32. Operands of products are bfloat16 for bfloat16 states. For float32
states each operand is the sum of two bfloat16 `PARTS`, and three of the four products
are computed: about 16 bits, where TF32 has 11.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, DTypeLike, Float

from kernels.pallas.tiling import (
    CLASSES,
    PARTS,
    STATES,
    Tiling,
    check_sizes,
    default_tiling,
    padded,
)
from kernels.sharding import pad

KERNEL_NAME = "jacobian_penalty_rows"

CHUNK = 64
"""Columns that a warpgroup processes at a time, limited by its registers."""

PRODUCTS = {1: ((0, 0),), 2: ((0, 0), (0, 1), (1, 0))}
"""Pairs of parts that are multiplied, by the number of parts."""


def row_arrays(
    delta: Float[Array, "k n c"],
    k: Float[Array, "k n"],
    w: Float[Array, "k c h"],
    gate: Float[Array, "n h"],
    a: Float[Array, "n h"],
    gram: Float[Array, "h h"],
    *,
    dtype: DTypeLike = jnp.bfloat16,
    tiling: Tiling | None = None,
    interpret: Any = False,
) -> tuple[Float[Array, "k n h"], Float[Array, "k n h"], Float[Array, "n h"]]:
    """Run the kernel; states and classes are padded to whole blocks.

    **Arguments:**

    - `dtype`: bfloat16 or float32: dtype of y, D⊙x and the operands.
    - `tiling`: None for `default_tiling`; `benchmarks.gpu` times the others.
    - `interpret`: False, True for Pallas' GPU interpreter on a CPU, or its parameters
        (`plgpu.InterpretGPUParams`).

    **Returns:** y and D⊙x in `dtype`, and Σ_i x_i⊙v_i.

    **Raises:** ValueError for sizes, a dtype or a tiling that is not supported.
    """
    rows, n, classes = delta.shape
    h = gate.shape[-1]
    check_sizes(h, classes, dtype)
    n_padded, c_padded = padded(n, STATES), padded(classes, CLASSES)
    columns, rows_each = tiling or default_tiling(rows, n, h, dtype)
    if columns not in (64, 128) or h % columns or rows_each < 1 or rows % rows_each:
        raise ValueError(
            f"tiling={tiling} with H={h} and {rows} rows: columns must be 64 or 128 "
            "and divide H, and rows a divisor of their number; leave tiling out"
        )
    tiles, warpgroups = n_padded // STATES, h // columns
    parts = PARTS[jnp.dtype(dtype)]
    if interpret is True:
        interpret = plgpu.InterpretGPUParams()

    run = plgpu.kernel(
        partial(_kernel, rows_each=rows_each),
        out_type=(
            jax.ShapeDtypeStruct((rows, n_padded, h), dtype),
            jax.ShapeDtypeStruct((rows, n_padded, h), dtype),
            jax.ShapeDtypeStruct((rows // rows_each, n_padded, h), jnp.float32),
        ),
        scratch_types={
            "gram": _shared(parts, h, h),
            "gate": _shared(parts, STATES, h),
            "buffer": _shared(parts, warpgroups, STATES, columns),
            "delta": _shared(parts, STATES, c_padded),
            "w": _shared(parts, c_padded, h, entries=c_padded),
            "resident": plgpu.Barrier(num_arrivals=2 * parts),
            "arrived": plgpu.Barrier(num_arrivals=2 * parts),
            "written": plgpu.Barrier(num_arrivals=warpgroups),
            "drained": plgpu.Barrier(num_arrivals=warpgroups),
        },
        grid=(tiles, rows // rows_each),
        grid_names=("tile", "group"),
        num_threads=warpgroups,
        thread_name="warpgroup",
        kernel_name=KERNEL_NAME,
        interpret=interpret,
    )
    y, gx, xv = run(
        _split(pad(pad(delta, 1, n_padded), 2, c_padded), parts),
        pad(k.astype(jnp.float32), 1, n_padded),
        _split(pad(w, 1, c_padded), parts),
        _split(pad(gate, 0, n_padded), parts),
        pad(a.astype(jnp.float32), 0, n_padded),
        _split(gram, parts),
    )
    return y[:, :n], gx[:, :n], jnp.sum(xv, axis=0)[:n]


def _kernel(
    delta_hbm,
    k_hbm,
    w_hbm,
    gate_hbm,
    a_hbm,
    gram_hbm,
    y_hbm,
    gx_hbm,
    xv_hbm,
    *,
    gram,
    gate,
    buffer,
    delta,
    w,
    resident,
    arrived,
    written,
    drained,
    rows_each: int,
):
    parts, warpgroups, _, width = buffer.shape
    rows, n = k_hbm.shape
    h = warpgroups * width
    warpgroup = lax.axis_index("warpgroup")
    group = lax.axis_index("group")
    first_state = lax.axis_index("tile") * STATES
    states = pl.ds(first_state, STATES)
    first_column = warpgroup * width
    columns = pl.ds(first_column, width)
    first_row = group * rows_each

    # The parts of an array are concatenated along its first axis.
    def fetch(row):
        for part in range(parts):
            place = part * rows + row
            plgpu.copy_gmem_to_smem(
                delta_hbm.at[place, states], delta.at[part], arrived
            )
            plgpu.copy_gmem_to_smem(w_hbm.at[place], w.at[part], arrived)

    @pl.when(warpgroup == 0)
    def _start():
        for part in range(parts):
            plgpu.copy_gmem_to_smem(
                gram_hbm.at[pl.ds(part * h, h)], gram.at[part], resident
            )
            plgpu.copy_gmem_to_smem(
                gate_hbm.at[pl.ds(part * n + first_state, STATES)],
                gate.at[part],
                resident,
            )
        fetch(first_row)

    plgpu.barrier_wait(resident)

    def product(*operands):
        """Σ left @ right over pairs of operands whose first axis is their parts."""

        def body(accumulator):
            for left, right in operands:
                for i, j in PRODUCTS[parts]:
                    plgpu.wgmma(accumulator, left.at[i], right.at[j])
            return accumulator[...]

        return pl.run_scoped(
            body, plgpu.WGMMAAccumulatorRef((STATES, width), jnp.float32)
        )

    def chunks(piece):
        """`piece` of each CHUNK columns of this warpgroup, after their slices.

        Registers hold v, x and Σ x⊙v for all its columns. There is no room for D and a:
        they are read chunk by chunk, and D is read a second time for D⊙x.
        """
        for start in range(0, width, CHUNK):
            here = pl.ds(first_column + start, CHUNK)
            d = gate[0, :, here].astype(jnp.float32)
            for part in range(1, parts):
                d = d + gate[part, :, here].astype(jnp.float32)
            local = slice(start, start + CHUNK)
            yield local, here, piece(d, local, here)

    def keep(part, local, value):
        """Writes one part of a value to the buffer; returns the remainder."""
        rounded = value.astype(jnp.bfloat16)
        buffer[part, warpgroup, :, local] = rounded
        return value - rounded.astype(jnp.float32)

    def send(destination):
        """Starts copying this warpgroup's columns out of the buffer."""
        plgpu.copy_smem_to_gmem(buffer.at[0, warpgroup], destination.at[:, columns])

    def one_row(j, xv):
        row = first_row + j
        plgpu.barrier_wait(arrived)
        v = product((delta, w.at[:, :, columns]))
        k = plgpu.load(k_hbm.at[row, states], optimized=False)
        k = lax.broadcast_in_dim(k, (STATES, CHUNK), [0])

        def y_piece(d, local, here):
            a = plgpu.load(a_hbm.at[states, here], optimized=False)
            return d * v[:, local] - k * a

        for local, here, y in chunks(y_piece):
            rest = y
            for part in range(parts):
                rest = keep(part, local, rest)
            if parts > 1:
                y_hbm[row, states, here] = y
        plgpu.commit_smem()
        if parts == 1:
            send(y_hbm.at[row, states])

        # All warpgroups have used delta and w, and all of y is in the buffer.
        plgpu.barrier_arrive(written)
        plgpu.barrier_wait(written)

        @pl.when((warpgroup == 0) & (j + 1 < rows_each))
        def _prefetch():
            fetch(row + 1)

        x = product(
            *(
                (buffer.at[:, i], gram.at[:, pl.ds(i * width, width), columns])
                for i in range(warpgroups)
            )
        )
        xv = xv + x * v
        if parts == 1:
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)

        # All warpgroups have used y: the buffer is free for D⊙x.
        plgpu.barrier_arrive(drained)
        plgpu.barrier_wait(drained)
        for local, here, gx in chunks(lambda d, local, here: d * x[:, local]):
            if parts > 1:
                gx_hbm[row, states, here] = gx
            else:
                keep(0, local, gx)
        if parts == 1:
            plgpu.commit_smem()
            send(gx_hbm.at[row, states])
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        return xv

    zero = plgpu.layout_cast(
        jnp.zeros((STATES, width), jnp.float32), plgpu.Layout.WGMMA
    )
    xv_hbm[group, states, columns] = lax.fori_loop(0, rows_each, one_row, zero)
    if parts == 1:
        plgpu.wait_smem_to_gmem(0)


def _split(x: Float[Array, "n ..."], parts: int) -> Float[Array, "{parts}*n ..."]:
    """bfloat16 parts that sum to `x`, concatenated along the first axis.

    `reduce_precision` is used because XLA may remove a conversion there and back.
    """
    if parts == 1:
        return x.astype(jnp.bfloat16)
    found, rest = [], x.astype(jnp.float32)
    for _ in range(parts):
        rounded = lax.reduce_precision(rest, exponent_bits=8, mantissa_bits=7)
        found.append(rounded.astype(jnp.bfloat16))
        rest = rest - rounded
    return jnp.concatenate(found)


def _shared(*shape: int, entries: int = 0):
    """Shared memory in the swizzled tiles that the matrix instructions read.

    Both operands of a product need the same tile width, that of the contracted axis.
    """
    entries = math.gcd(entries or shape[-1], 64)
    return plgpu.SMEM(
        shape,
        jnp.bfloat16,
        transforms=(
            plgpu.TilingTransform((8, entries)),  # pyright: ignore[reportAbstractUsage]
            plgpu.SwizzleTransform(2 * entries),  # pyright: ignore[reportAbstractUsage]
        ),
    )
