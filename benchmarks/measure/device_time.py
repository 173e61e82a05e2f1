"""Time of one call on an accelerator, and its lower bound from the datasheet.

A call of tens of microseconds cannot be timed from the host, because launch overhead
dominates. So many calls form one program, each dependent on the previous one, and the
whole program is timed.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

CALLS = 64
"""Default number of calls in one program."""


class Peak(NamedTuple):
    """Peak rates of a device."""

    flops: float
    """bfloat16 matrix FLOP/s with float32 accumulation, without sparsity."""
    bytes: float
    """Memory bandwidth in bytes/s, reads plus writes."""
    source: str


_DENSE = "without sparsity: half the printed figure"
PEAKS = {
    "H200": Peak(989e12, 4.8e12, f"NVIDIA H200 datasheet, SXM, {_DENSE}"),
    "H100 80GB HBM3": Peak(989e12, 3.35e12, f"NVIDIA H100 datasheet, SXM, {_DENSE}"),
    "H100 PCIe": Peak(756e12, 2.0e12, f"NVIDIA H100 datasheet, PCIe, {_DENSE}"),
}
"""By a distinctive part of the device's name."""


def peak_of(device_kind: str) -> Peak | None:
    """The datasheet's peak rates for a device's name, or None if not in `PEAKS`."""
    return next((peak for name, peak in PEAKS.items() if name in device_kind), None)


def floor(flops: int, bytes_moved: int, peak: Peak, seconds: float) -> dict[str, Any]:
    """Roofline of a measurement: the minimum times over `seconds`, as JSON.

    ``fraction`` is that of the larger of the two floors. A value above 1 means that the
    measurement is wrong or that the data stayed in the cache.
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


def chained(
    fn: Callable[..., Any], gradients: Callable[[Any], Any] | None = None
) -> Callable[[Any, Array], Any]:
    """A program ``(inputs, keys)`` that calls ``fn(inputs, key)`` for each key in turn.

    The inputs of each call depend on the previous result, like a gradient step with a
    negligible step size, so that XLA cannot eliminate work or hoist it out of the loop.
    This adds one pass over the inputs per call to the measured time; time `chain` of a
    trivial function to measure it.

    **Arguments:**

    - `gradients`: selects from the results a tree with the structure of `inputs`, which
        is subtracted from them (scaled); if None the inputs are scaled by a result.

    **Returns:**

    The program, which returns the inputs and the results of the last call.
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

    # Results are carried, so that each is written to memory in full.
    def call(carry: Any, key: Array) -> tuple[Any, None]:
        inputs, _ = carry
        results = fn(inputs, key)
        return (moved(inputs, results), results), None

    def program(inputs: Any, keys: Array) -> Any:
        shapes = jax.eval_shape(fn, inputs, keys[0])
        empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(call, (inputs, empty), keys)[0]

    return program


def chain(
    fn: Callable[..., Any],
    inputs: Any,
    *,
    calls: int = CALLS,
    gradients: Callable[[Any], Any] | None = None,
) -> Callable[[], Any]:
    """`calls` calls of ``fn(inputs, key)`` in one compiled program: see `chained`.

    Raises `ValueError` if a result is not finite.
    """
    keys = jax.random.split(jax.random.key(7), calls)
    compiled = jax.jit(chained(fn, gradients)).lower(inputs, keys).compile()

    def run() -> Any:
        return jax.block_until_ready(compiled(inputs, keys))[1]

    if not all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(run())):
        raise ValueError("a call's result is not finite: the timing would be invalid")
    return run


def product_chain(size: int, calls: int) -> Callable[[], Any]:
    """A chain of `calls` products of square bfloat16 matrices."""
    x, y = jax.random.normal(jax.random.key(0), (2, size, size)).astype(jnp.bfloat16)
    y = y / math.sqrt(size)

    def step(x: Array, _: None) -> tuple[Array, None]:
        return x @ y, None

    compiled = jax.jit(lambda x: jax.lax.scan(step, x, None, calls)[0])
    return lambda: jax.block_until_ready(compiled(x))


def copy_chain(size: int, calls: int) -> Callable[[], Any]:
    """A chain of `calls` passes that read and write a float32 array of `size`."""
    x = jax.random.normal(jax.random.key(0), (size,))

    def step(x: Array, _: None) -> tuple[Array, None]:
        return -x, None

    compiled = jax.jit(lambda x: jax.lax.scan(step, x, None, calls)[0])
    return lambda: jax.block_until_ready(compiled(x))
