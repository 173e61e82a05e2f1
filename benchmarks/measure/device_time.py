"""Seconds of one call on an accelerator, and the least it could take.

A call of some tens of microseconds is not timed from the host: what is measured then is
mostly the launch. Here many calls are one program, each made to wait for the one before
it, and the clock is read around the whole.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

CALLS = 64
"""Calls in one program, by default."""


class Peak(NamedTuple):
    """What a device can do at most."""

    flops: float
    """bfloat16 products with float32 sums, a second, without sparsity."""
    bytes: float
    """Of device memory, read or written, a second."""
    source: str


_DENSE = "without sparsity: half the printed figure"
PEAKS = {
    "H200": Peak(989e12, 4.8e12, f"NVIDIA H200 datasheet, SXM, {_DENSE}"),
    "H100 80GB HBM3": Peak(989e12, 3.35e12, f"NVIDIA H100 datasheet, SXM, {_DENSE}"),
    "H100 PCIe": Peak(756e12, 2.0e12, f"NVIDIA H100 datasheet, PCIe, {_DENSE}"),
}
"""By the part of the device's name that tells it apart."""


def peak_of(device_kind: str) -> Peak | None:
    """The datasheet's figures for a device's name, None where it is not in `PEAKS`."""
    return next((peak for name, peak in PEAKS.items() if name in device_kind), None)


def floor(flops: int, bytes_moved: int, peak: Peak, seconds: float) -> dict[str, Any]:
    """How near `seconds` comes to the least time for this work, as JSON.

    ``fraction`` is that of the higher of the two floors; more than 1 would mean that
    the measurement is wrong or that the data never left the cache.
    """
    compute, memory = flops / peak.flops, bytes_moved / peak.bytes
    return {
        "flops": flops,
        "bytes": bytes_moved,
        "flop_floor_seconds": compute,
        "byte_floor_seconds": memory,
        "fraction_of_flop_floor": compute / seconds,
        "fraction_of_byte_floor": memory / seconds,
        "fraction": max(compute, memory) / seconds,
    }


def chain(
    fn: Callable[..., Any],
    inputs: Any,
    *,
    calls: int = CALLS,
    gradients: Callable[[Any], Any] | None = None,
) -> Callable[[], Any]:
    """`calls` calls of ``fn(inputs, key)`` in one compiled program.

    Every input of a call depends on the result of the one before, so that no work can
    be left out, moved out of the loop or done once for all: as gradient descent would,
    with a rate too small to change a digit. That costs one pass over the inputs a call,
    which is counted; time `chain` of a trivial function to see how much it is.

    **Arguments:**

    - `gradients`: picks from the results what has the structure of `inputs` and is to
        be added to them; without it the inputs are scaled by the first result.
    """

    def moved(inputs: Any, results: Any) -> Any:
        if gradients is not None:
            return jax.tree.map(
                lambda x, g: x - (1e-20 * g).astype(x.dtype), inputs, gradients(results)
            )
        first = jnp.ravel(jax.tree.leaves(results)[0])[0].astype(jnp.float32)
        factor = 1 + 1e-20 * first
        return jax.tree.map(
            lambda x: (x.astype(jnp.float32) * factor).astype(x.dtype), inputs
        )

    # Results are part of what the loop hands on, so that each is written in full.
    def call(carry: Any, key: Array) -> tuple[Any, None]:
        inputs, _ = carry
        results = fn(inputs, key)
        return (moved(inputs, results), results), None

    def program(inputs: Any, keys: Array) -> Any:
        shapes = jax.eval_shape(fn, inputs, keys[0])
        empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(call, (inputs, empty), keys)[0]

    keys = jax.random.split(jax.random.key(7), calls)
    compiled = jax.jit(program).lower(inputs, keys).compile()

    def run() -> Any:
        return jax.block_until_ready(compiled(inputs, keys))[1]

    if not all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(run())):
        raise ValueError("a call's result is not finite: there is nothing to time")
    return run


def product_chain(size: int, calls: int) -> Callable[[], Any]:
    """Products of two square bfloat16 matrices, each of the last result."""
    x, y = jax.random.normal(jax.random.key(0), (2, size, size)).astype(jnp.bfloat16)
    y = y / math.sqrt(size)

    def step(x: Array, _: None) -> tuple[Array, None]:
        return x @ y, None

    compiled = jax.jit(lambda x: jax.lax.scan(step, x, None, calls)[0])
    return lambda: jax.block_until_ready(compiled(x))


def copy_chain(size: int, calls: int) -> Callable[[], Any]:
    """Passes over one float32 array of `size` entries, each reading and writing it."""
    x = jax.random.normal(jax.random.key(0), (size,))

    def step(x: Array, _: None) -> tuple[Array, None]:
        return -x, None

    compiled = jax.jit(lambda x: jax.lax.scan(step, x, None, calls)[0])
    return lambda: jax.block_until_ready(compiled(x))
