"""Requirements and block sizes of the fused GPU kernel (`kernels.pallas.kernel`).

This module does not import Pallas.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import DTypeLike

STATES = 64
"""States per thread block: the M of one Hopper matrix instruction."""

CLASSES = 16
"""Classes are padded to a multiple of this: the K of one matrix instruction."""

SHARED_BYTES = 232_448 - 2_048
"""Shared memory of one block on Hopper, minus what the compiler reserves."""

TARGET_BLOCKS = 132
"""Number of multiprocessors of an H100 or H200."""

PARTS = {jnp.dtype(jnp.bfloat16): 1, jnp.dtype(jnp.float32): 2}
"""Number of bfloat16 terms, largest first, that represent an operand of this dtype."""


class Tiling(NamedTuple):
    """Block sizes; they change the speed, and results only by rounding."""

    columns: int
    """Columns of H per warpgroup: 64 or 128, a divisor of H."""
    rows: int
    """Rows that one thread block processes in sequence: a divisor of their number."""


def default_tiling(
    rows: int, n: int, h: int, dtype: DTypeLike = jnp.bfloat16
) -> Tiling:
    """The default tiling of `row_arrays`.

    With 128 columns y is read from shared memory half as often as with 64. In float32 a
    multiprocessor holds only one block, and 64 give it more threads to hide latency.
    """
    return Tiling(
        columns=64 if h % 128 or PARTS[jnp.dtype(dtype)] > 1 else 128,
        rows=_rows_each(rows, padded(n, STATES) // STATES),
    )


def shared_bytes(h: int, classes: int, dtype: DTypeLike = jnp.bfloat16) -> int:
    """Shared memory of one block in bytes."""
    c = padded(classes, CLASSES)
    entries = h * h + 2 * STATES * h + c * h + STATES * c
    return 2 * PARTS[jnp.dtype(dtype)] * entries


def check_sizes(h: int, classes: int, dtype: DTypeLike = jnp.bfloat16) -> None:
    """Raises ValueError where the kernel has no tiling for head and dtype."""
    dtype = jnp.dtype(dtype)
    if dtype not in PARTS:
        raise ValueError(
            f"u of dtype {dtype.name}: the kernel takes bfloat16 or float32; cast u, "
            "or take implementation='xla'"
        )
    if h % 64:
        raise ValueError(
            f"H={h}: the kernel's hidden width is a multiple of 64; take "
            "implementation='xla'"
        )
    needed = shared_bytes(h, classes, dtype)
    if needed > SHARED_BYTES:
        fits = shared_bytes(h, classes) <= SHARED_BYTES
        raise ValueError(
            f"H={h}, classes={classes}, u of dtype {dtype.name}: the kernel needs "
            f"{needed} bytes of shared memory for the Gram matrix, and a block has "
            f"{SHARED_BYTES}; take {'bfloat16 u or ' if fits else ''}"
            "implementation='xla'"
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
        "the kernel is compiled for NVIDIA Hopper (compute capability 9.x), and JAX's "
        f"default device is {found}: take implementation='xla', which computes the "
        "same, or interpret=True to run the kernel slowly in Pallas' interpreter"
    )


def padded(size: int, multiple: int) -> int:
    """`size`, rounded up to a multiple of `multiple`."""
    return -(-size // multiple) * multiple


def _rows_each(rows: int, tiles: int) -> int:
    """Rows per block that minimize the estimated time on all multiprocessors.

    Blocks run in rounds of `TARGET_BLOCKS`; reading G takes about as long as one row.
    """
    divisors = [each for each in range(1, rows + 1) if rows % each == 0]
    return min(
        divisors, key=lambda e: (1 + e) * -(-tiles * rows // (e * TARGET_BLOCKS))
    )
