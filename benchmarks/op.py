"""The penalty op alone: seconds and memory of each implementation.

    python -m benchmarks.op [--quick] [--shape 12m|1m|both] [--json OUT] [--png OUT]

Times the mean form, value alone and value with gradients, of the posterior heads of two
model sizes. Programs that are compared run in turn, and a speed-up is the quotient
within each round. Temporaries are what XLA allots to the compiled program. On a GPU use
`benchmarks.gpu`: here every call is timed from the host.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array

from benchmarks.op_cases import (
    SHAPES,
    Case,
    HeadShape,
    penalty_program,
    probe_families,
    random_inputs,
)
from benchmarks.op_report import PRODUCT, Row, draw, record, table
from benchmarks.timing import Spread, interleave, ratios
from kernels import Implementation, kernel_obstacle
from train.provenance import write_result

STATES = (128, 512, 1024)
"""N: 512 and 1024 are half and all of a batch of 16 sequences of 64 steps."""

REFERENCE_BYTES = 700_000_000
"""The reference is left out where the rows' gradients, [N, M, K, D], exceed this."""


def cases(
    shape: HeadShape, n: int, *, pallas: bool
) -> tuple[list[Case], dict[str, str]]:
    """Programs to time in turn, and those that are left out with the reason."""
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
    """Times one head at one N; also the seconds of the square product each round."""
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
    """A square float32 product as a function that returns when it is done."""
    x, y = jax.random.normal(key, (2, PRODUCT, PRODUCT))
    compiled = jax.jit(jnp.matmul).lower(x, y).compile()
    return lambda: jax.block_until_ready(compiled(x, y))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 2 where a file cannot be written."""
    options = _parser().parse_args(argv)
    dtype = jnp.dtype(jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)
    names = list(SHAPES) if options.shape == "both" else [options.shape]
    counts, rounds = STATES, options.rounds or 9
    if options.quick:
        names, counts, rounds = ["1m"], STATES[:1], options.rounds or 3
    begun = time.perf_counter()

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - begun:4.0f} s] {text}", flush=True)

    found: list[Row] = []
    products: list[float] = []
    left_out: dict[str, str] = {}
    for name in names:
        shape = SHAPES[name]
        obstacle = kernel_obstacle(hidden=shape.h, classes=shape.c, dtype=jnp.bfloat16)
        if obstacle is not None:
            left_out["pallas"] = obstacle
        for n in counts:
            rows, without = cases(shape, n, pallas=obstacle is None)
            left_out |= {f"{name} {what}": why for what, why in without.items()}
            new, product = measure(name, n, rows, dtype=dtype, rounds=rounds, say=say)
            found += new
            products += product
    product = Spread.of([2e-9 * PRODUCT**3 / seconds for seconds in products])
    print(f"\n{table(found, product)}\n")
    for what, why in left_out.items():
        print(f"not measured: {what}: {why}")
    if options.quick:
        print("--quick: a check of the machinery, no measurement")
    try:
        if options.json is not None:
            what = "a check of the machinery" if options.quick else "a measurement"
            result = record(found, product, left_out, dtype.name)
            write_result(options.json, {"what": what, "rounds": rounds, **result})
            print(f"wrote {options.json}")
        if options.png is not None:
            options.png.parent.mkdir(parents=True, exist_ok=True)
            draw(found).savefig(options.png)
            print(f"drew {options.png}")
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.op",
        description="Time the Jacobian penalty op alone.",
    )
    parser.add_argument("--shape", choices=(*SHAPES, "both"), default="both")
    parser.add_argument("--rounds", type=int, help="rounds that count (default 9)")
    parser.add_argument("--quick", action="store_true", help="one head, one N")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--png", type=Path, metavar="OUT")
    return parser


if __name__ == "__main__":
    sys.exit(main())
