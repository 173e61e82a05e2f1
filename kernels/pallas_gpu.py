"""The row products of the penalty as one fused kernel for NVIDIA Hopper GPUs.

`kernels.rows` needs, for every row i of every state, ``v = W_i δ_i``,
``y = D⊙v − k a``, ``x = G y`` and from them y, D⊙x and Σ_i x⊙v. XLA makes four passes
over arrays with H entries a row; here v and x live in registers and nothing but the
results is written.

One thread block takes 64 states and some of the rows. It keeps G and the states' D in
shared memory, so the first layer's Gram matrix is read once for all its rows. A
warpgroup owns `_width` of the H columns; all of them need the whole y as the left
operand of ``y G``, which is the only exchange. Blocks write partial sums over their
rows, which XLA adds up: the order is fixed, so results are reproducible.

Operands are bfloat16, sums float32.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float

from kernels.sharding import pad

KERNEL_NAME = "jacobian_penalty_rows"
STATES = 64
"""States of one thread block: the rows of one Hopper matrix instruction."""

SHARED_BYTES = 232_448 - 2_048
"""Shared memory of one block on Hopper, less what the compiler takes for itself."""

TARGET_BLOCKS = 132
"""Multiprocessors of an H100 or H200: with as many blocks, none is idle."""


class Tiling(NamedTuple):
    """How the work is cut; a matter of speed alone, results agree to rounding."""

    columns: int
    """Columns of H that one warpgroup owns: 64 or 128, a divisor of H."""
    rows: int
    """Rows that one thread block takes in turn: a divisor of their number."""


def default_tiling(rows: int, n: int, h: int) -> Tiling:
    """The tiling that `row_arrays` takes unless it is told another."""
    return Tiling(
        columns=_width(h), rows=_rows_each(rows, _padded(n, STATES) // STATES)
    )


def shared_bytes(h: int, classes: int) -> int:
    """Shared memory that one block asks for at these sizes."""
    padded = _padded(classes, 16)
    return 2 * (h * h + 2 * STATES * h + padded * h + STATES * padded)


def check_sizes(h: int, classes: int) -> None:
    """Raises ValueError where the kernel has no tiling for the head's sizes."""
    if h != 64 and h % 128:
        raise ValueError(
            f"hidden width H={h} with implementation='pallas': H must be 64 or a "
            "multiple of 128; take implementation='xla'"
        )
    if shared_bytes(h, classes) > SHARED_BYTES:
        raise ValueError(
            f"H={h}, classes={classes} with implementation='pallas': the kernel needs "
            f"{shared_bytes(h, classes)} bytes of shared memory for the Gram matrix, "
            f"and a block has {SHARED_BYTES}; take implementation='xla'"
        )


def require_hopper() -> None:
    """Raises ValueError unless JAX's default device can run the kernel.

    Its matrix instructions are Hopper's own: Blackwell does not have them either.
    """
    device = jax.devices()[0]
    if device.platform == "gpu":
        capability = str(getattr(device, "compute_capability", "unknown"))
        if capability.startswith("9."):
            return
        found = f"a GPU of compute capability {capability}"
    else:
        found = f"the platform {device.platform!r}"
    raise ValueError(
        "implementation='pallas' is compiled for NVIDIA Hopper (compute capability "
        f"9.x), and JAX's default device is {found}: take implementation='xla', which "
        "computes the same, or interpret=True to run the kernel slowly in Pallas' "
        "interpreter"
    )


def row_arrays(
    delta: Float[Array, "k n c"],
    k: Float[Array, "k n"],
    w: Float[Array, "k c h"],
    gate: Float[Array, "n h"],
    a: Float[Array, "n h"],
    gram: Float[Array, "h h"],
    *,
    tiling: Tiling | None = None,
    interpret: Any = False,
) -> tuple[Float[Array, "k n h"], Float[Array, "k n h"], Float[Array, "n h"]]:
    """Runs the kernel; states and classes are padded here to whole blocks.

    **Arguments:**

    - `tiling`: None for `default_tiling`; `benchmarks.gpu` times the others.
    - `interpret`: False, True for Pallas' GPU interpreter on a CPU, or its parameters
        (`plgpu.InterpretGPUParams`).

    **Returns:** y and D⊙x in bfloat16, and Σ_i x_i⊙v_i.

    **Raises:** ValueError for sizes or a tiling that the kernel does not have.
    """
    rows, n, classes = delta.shape
    h = gate.shape[-1]
    check_sizes(h, classes)
    n_padded, c_padded = _padded(n, STATES), _padded(classes, 16)
    columns, rows_each = tiling or default_tiling(rows, n, h)
    if columns not in (64, 128) or h % columns or rows_each < 1 or rows % rows_each:
        raise ValueError(
            f"tiling={tiling} with H={h} and {rows} rows: columns must be 64 or 128 "
            "and divide H, rows must divide their number; leave tiling out"
        )
    tiles, warpgroups = n_padded // STATES, h // columns
    if interpret is True:
        interpret = plgpu.InterpretGPUParams()

    run = plgpu.kernel(
        partial(_kernel, rows_each=rows_each),
        out_type=(
            jax.ShapeDtypeStruct((rows, n_padded, h), jnp.bfloat16),
            jax.ShapeDtypeStruct((rows, n_padded, h), jnp.bfloat16),
            jax.ShapeDtypeStruct((rows // rows_each, n_padded, h), jnp.float32),
        ),
        scratch_types={
            "gram": _shared(h, h),
            "gate": _shared(STATES, h),
            "buffer": _shared(warpgroups, STATES, h // warpgroups),
            "delta": _shared(STATES, c_padded),
            "w": _shared(c_padded, h, entries=c_padded),
            "resident": plgpu.Barrier(num_arrivals=2),
            "arrived": plgpu.Barrier(num_arrivals=2),
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
        pad(pad(delta.astype(jnp.bfloat16), 1, n_padded), 2, c_padded),
        pad(k.astype(jnp.float32), 1, n_padded),
        pad(w.astype(jnp.bfloat16), 1, c_padded),
        pad(gate.astype(jnp.bfloat16), 0, n_padded),
        pad(a.astype(jnp.float32), 0, n_padded),
        gram.astype(jnp.bfloat16),
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
    warpgroups, _, width = buffer.shape
    warpgroup = lax.axis_index("warpgroup")
    group = lax.axis_index("group")
    states = pl.ds(lax.axis_index("tile") * STATES, STATES)
    columns = pl.ds(warpgroup * width, width)
    first_row = group * rows_each

    def fetch(row):
        plgpu.copy_gmem_to_smem(delta_hbm.at[row, states], delta, arrived)
        plgpu.copy_gmem_to_smem(w_hbm.at[row], w, arrived)

    @pl.when(warpgroup == 0)
    def _start():
        plgpu.copy_gmem_to_smem(gram_hbm, gram, resident)
        plgpu.copy_gmem_to_smem(gate_hbm.at[states], gate, resident)
        fetch(first_row)

    plgpu.barrier_wait(resident)

    def product(*operands):
        def body(accumulator):
            for left, right in operands:
                plgpu.wgmma(accumulator, left, right)
            return accumulator[...]

        return pl.run_scoped(
            body, plgpu.WGMMAAccumulatorRef((STATES, width), jnp.float32)
        )

    def send(value, destination):
        """Writes this warpgroup's columns to the buffer and starts copying them out."""
        part = buffer.at[warpgroup]
        part[...] = value.astype(jnp.bfloat16)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(part, destination.at[:, columns])

    def one_row(j, xv):
        row = first_row + j
        plgpu.barrier_wait(arrived)
        v = product((delta, w.at[:, columns]))
        d = gate[:, columns].astype(jnp.float32)
        k = plgpu.load(k_hbm.at[row, states], optimized=False)
        a = plgpu.load(a_hbm.at[states, columns], optimized=False)
        y = d * v - lax.broadcast_in_dim(k, (STATES, width), [0]) * a
        send(y, y_hbm.at[row, states])

        # Every warpgroup is done with delta and w, and all of y is in the buffer.
        plgpu.barrier_arrive(written)
        plgpu.barrier_wait(written)

        @pl.when((warpgroup == 0) & (j + 1 < rows_each))
        def _prefetch():
            fetch(row + 1)

        x = product(
            *(
                (buffer.at[j], gram.at[pl.ds(j * width, width), columns])
                for j in range(warpgroups)
            )
        )
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)

        # Nobody reads y any more: the buffer is free for D⊙x.
        plgpu.barrier_arrive(drained)
        plgpu.barrier_wait(drained)
        send(d * x, gx_hbm.at[row, states])
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        return xv + x * v

    zero = plgpu.layout_cast(
        jnp.zeros((STATES, width), jnp.float32), plgpu.Layout.WGMMA
    )
    xv_hbm[group, states, columns] = lax.fori_loop(0, rows_each, one_row, zero)
    plgpu.wait_smem_to_gmem(0)


def _width(h: int) -> int:
    """Columns of one warpgroup: it holds v, x and Σ x⊙v of them in registers."""
    return min(h, 128)


def _padded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _rows_each(rows: int, tiles: int) -> int:
    """Rows of one block: as many as leave a block for every multiprocessor."""
    divisors = [each for each in range(1, rows + 1) if rows % each == 0]
    return max(e for e in divisors if e == 1 or tiles * rows // e >= TARGET_BLOCKS)


def _shared(*shape: int, entries: int = 0):
    """Shared memory in the swizzled tiles that matrix instructions read.

    Both operands of a product must have tiles of one width: that of the contraction.
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
