"""Select the programs of the penalty op to compare, and time them."""

import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

from benchmarks.measure.timing import Spread, interleave, ratios
from benchmarks.overhead.op.cases import (
    SHAPES,
    Case,
    HeadShape,
    penalty_program,
    probe_families,
    random_inputs,
)
from benchmarks.overhead.op.report import PRODUCT, Row
from kernels import Implementation

STATES = (128, 512, 1024)
"""N: 512 and 1024 are half and all of a batch of 16 sequences of 64 steps."""

REFERENCE_BYTES = 700_000_000
"""The reference is skipped if the rows' gradients, [N, M, K, D], exceed this."""


def cases(
    shape: HeadShape, n: int, *, pallas: bool
) -> tuple[list[Case], dict[str, str]]:
    """The programs to time, and the skipped ones with the reason."""
    rows: list[Case] = []
    left_out = {}
    for gradient in (False, True):
        for probes in probe_families(shape.c):
            size = 4 * n * probes.number(shape.c) * shape.k * shape.d
            reference = Case("reference", probes, gradient, False)
            if size <= REFERENCE_BYTES:
                rows.append(reference)
            else:
                left_out[f"{reference.label}, N={n}"] = (
                    f"its rows' gradients alone take {size / 1e9:.1f} GB"
                )
            fast: list[Implementation] = ["xla", "pallas"] if pallas else ["xla"]
            for implementation in fast:
                for reuse in (False, True) if gradient else (False,):
                    rows.append(Case(implementation, probes, gradient, reuse))
    return rows, left_out


def measure(
    name: str,
    n: int,
    rows: Sequence[Case],
    *,
    dtype: jnp.dtype,
    rounds: int,
    say: Callable[[str], None],
) -> tuple[list[Row], list[float]]:
    """Time one head at one N; also returns the seconds of the matrix product."""
    shape = SHAPES[name]
    key = jax.random.key(0)
    inputs = (*random_inputs(key, shape, n, dtype), key)
    programs: dict[Case | str, Callable[[], object]] = {}
    compiled_as = {}
    for number, case in enumerate(rows):
        program = penalty_program(
            case.implementation,
            case.probes,
            classes=shape.c,
            gradient=case.gradient,
            reuse=case.reuse,
        )
        start = time.perf_counter()
        compiled = jax.jit(program).lower(*inputs).compile()
        spent = time.perf_counter() - start
        memory = compiled.memory_analysis()
        peak = None if memory is None else memory.temp_size_in_bytes
        compiled_as[case] = peak, spent
        programs[case] = lambda run=compiled: jax.block_until_ready(run(*inputs))
        say(f"{name} N={n}: compiled {number + 1}/{len(rows)}")
    programs["product"] = product_program(key)
    seconds = interleave(
        programs,
        rounds=rounds,
        progress=lambda done: say(f"{name} N={n}: round {done}/{rounds}"),
    )
    found = []
    for case in rows:
        same = Case("reference", case.probes, case.gradient, False)
        one = same._replace(probes=probe_families(shape.c)[0])
        found.append(
            Row(
                shape=name,
                n=n,
                case=case,
                seconds=Spread.of(seconds[case]),
                speedup=ratios(seconds[same], seconds[case]) if same in rows else None,
                speedup_one_probe=ratios(seconds[one], seconds[case]),
                temporary_bytes=compiled_as[case][0],
                compile_seconds=compiled_as[case][1],
            )
        )
    return found, seconds["product"]


def product_program(key: Array) -> Callable[[], object]:
    """A square float32 product as a function that blocks until it is done."""
    x, y = jax.random.normal(key, (2, PRODUCT, PRODUCT))
    compiled = jax.jit(jnp.matmul).lower(x, y).compile()
    return lambda: jax.block_until_ready(compiled(x, y))
