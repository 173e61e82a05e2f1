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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array
from matplotlib.figure import Figure

from benchmarks.op_cases import (
    SHAPES,
    HeadShape,
    Probes,
    op_flops,
    penalty_program,
    probe_families,
    random_inputs,
)
from benchmarks.provenance import write_result
from benchmarks.timing import Spread, interleave, ratios
from kernels import Implementation, kernel_obstacle

STATES = (128, 512, 1024)
"""N: 512 and 1024 are half and all of a batch of 16 sequences of 64 steps."""

REFERENCE_BYTES = 700_000_000
"""The reference is left out where the rows' gradients, [N, M, K, D], exceed this."""

PRODUCT = 2048
"""Size of the square float32 product that tells how fast the machine is just now."""


class Case(NamedTuple):
    """One program: see `penalty_program`."""

    implementation: Implementation
    probes: Probes
    gradient: bool
    reuse: bool

    @property
    def label(self) -> str:
        """What tells the lines of one pass apart."""
        reuse = ", a given" if self.reuse else ""
        return f"{self.implementation}{reuse}, {self.probes.label}"


class Row(NamedTuple):
    """What was found for one program."""

    shape: str
    n: int
    case: Case
    seconds: Spread
    speedup: Spread | None
    """Over the reference with the same probes, where that was timed."""
    speedup_one_probe: Spread
    """Over the reference with the paper's one Rademacher probe."""
    temporary_bytes: int | None
    compile_seconds: float


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
    programs: dict[Any, Callable[[], object]] = {}
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


def table(rows: Sequence[Row], product: Spread) -> str:
    """The rows as text."""
    lines = [f"{PRODUCT}³ float32 product: {product.median:.0f} GFLOP/s"]
    titles = f"{'ms':>9} {'×reference':>11} {'quartiles':>13} {'×1 probe':>9} {'MB':>7}"
    previous = None
    for row in rows:
        group = (row.shape, row.n, row.case.gradient)
        if group != previous:
            done = "value and gradients" if row.case.gradient else "value"
            lines += ["", f"{f'{row.shape}, N={row.n}, {done}':36} {titles}"]
        previous = group
        speedup, quartiles = "", ""
        if row.speedup is not None:
            speedup = f"{row.speedup.median:.2f}"
            quartiles = f"{row.speedup.low:.2f}-{row.speedup.high:.2f}"
        peak = row.temporary_bytes
        lines.append(
            f"{row.case.label:36} {1e3 * row.seconds.median:9.2f} {speedup:>11} "
            f"{quartiles:>13} {row.speedup_one_probe.median:9.2f} "
            f"{'' if peak is None else f'{peak / 1e6:.1f}':>7}"
        )
    return "\n".join(lines)


def draw(rows: Sequence[Row]) -> Figure:
    """Milliseconds against N: a panel for each head and pass, both axes logarithmic."""
    shapes = list(dict.fromkeys(row.shape for row in rows))
    figure = Figure(figsize=(10, 3.8 * len(shapes)), dpi=150, layout="constrained")
    panels = figure.subplots(len(shapes), 2, squeeze=False)
    styles = {"reference": ("o", "-"), "xla": ("s", "--"), "pallas": ("^", ":")}
    kinds = ("rademacher", "hadamard", "exact")
    for panel, (name, gradient) in zip(
        panels.flat, [(s, g) for s in shapes for g in (False, True)], strict=True
    ):
        lines: dict[Case, list[Row]] = {}
        for row in rows:
            fits = (row.shape, row.case.gradient) == (name, gradient)
            if fits and not row.case.reuse:
                lines.setdefault(row.case, []).append(row)
        for case, points in lines.items():
            marker, style = styles[case.implementation]
            spreads = [row.seconds for row in points]
            panel.errorbar(
                [row.n for row in points],
                [1e3 * spread.median for spread in spreads],
                [
                    [1e3 * (spread.median - spread.low) for spread in spreads],
                    [1e3 * (spread.high - spread.median) for spread in spreads],
                ],
                marker=marker,
                linestyle=style,
                color=f"C{kinds.index(case.probes.kind)}",
                capsize=3,
                label=case.label,
            )
        counts = sorted({row.n for row in rows})
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(counts, [str(n) for n in counts])
        panel.set_xlabel("states N")
        panel.set_ylabel("milliseconds a call")
        panel.set_title(f"{name}: {'value and gradients' if gradient else 'value'}")
        panel.grid(alpha=0.3, which="both")
    handles, labels = panels[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def record(
    rows: Sequence[Row], product: Spread, left_out: dict[str, str], dtype: str
) -> dict[str, Any]:
    """The result file's content, without what the caller knows better."""
    entries = []
    for row in rows:
        shape, case = SHAPES[row.shape], row.case
        number = case.probes.number(shape.c)
        work = op_flops(
            shape, row.n, number, gradient=case.gradient, reuse=case.reuse
        )
        entries.append(
            {
                "shape": row.shape,
                "n": row.n,
                "pass": "value_and_gradients" if case.gradient else "value",
                "implementation": case.implementation,
                "probe_kind": case.probes.kind,
                "probes": number,
                "preactivation_given": case.reuse,
                "seconds": row.seconds._asdict(),
                "speedup": None if row.speedup is None else row.speedup._asdict(),
                "speedup_over_one_probe": row.speedup_one_probe._asdict(),
                "temporary_bytes": row.temporary_bytes,
                "compile_seconds": row.compile_seconds,
                "gram_form_gflops": work / 1e9 / row.seconds.median,
            }
        )
    return {
        "dtype": dtype,
        "shapes": {name: shape._asdict() for name, shape in SHAPES.items()},
        "product_gflops": {"size": PRODUCT, **product._asdict()},
        "rows": entries,
        "not_measured": left_out,
    }


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
        obstacle = kernel_obstacle(hidden=shape.h, classes=shape.c, dtype=dtype)
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
