"""The penalty op alone: time and memory of each implementation.

    python -m benchmarks.overhead.op [--quick] [--shape 12m|1m|both]
                                     [--json OUT] [--png OUT]

Times the mean penalty, with and without gradients, for the posterior heads of two model
sizes. The programs run in interleaved rounds; speed-ups are ratios within a round.
Memory is the temporary memory reported by XLA. Each call is timed from the host; on a
GPU use `benchmarks.gpu`.
"""

import argparse
import sys
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from benchmarks.cli import Parser, command, count, publish
from benchmarks.measure.timing import Spread
from benchmarks.overhead.op.cases import SHAPES
from benchmarks.overhead.op.measure import STATES, cases, measure
from benchmarks.overhead.op.report import PRODUCT, Row, draw, record, table
from kernels import kernel_obstacle


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return command(_parser(), run, argv)


def run(options: argparse.Namespace) -> None:
    """Measure, write, print, draw."""
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
    missing = (f"not measured: {what}: {why}" for what, why in left_out.items())
    result = {"rounds": rounds, **record(found, product, left_out, dtype.name)}
    text = "\n".join(["", table(found, product), "", *missing])
    publish(options, result, text, lambda: draw(found))


def _parser() -> Parser:
    parser = Parser(
        "overhead.op",
        description="Time the Jacobian penalty op alone.",
    )
    parser.add_argument("--shape", choices=(*SHAPES, "both"), default="both")
    parser.add_argument("--rounds", type=count, help="timed rounds (default 9)")
    parser.add_outputs(quick="one head, one N")
    return parser


if __name__ == "__main__":
    sys.exit(main())
