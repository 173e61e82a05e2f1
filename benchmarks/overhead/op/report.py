"""Results of `benchmarks.overhead.op` as text, plot and JSON."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.measure.tables import text_table
from benchmarks.measure.timing import Spread, bars
from benchmarks.overhead.op.cases import SHAPES, Case, op_flops

PRODUCT = 2048
"""Size of the square float32 product that measures the machine's current speed."""


class Row(NamedTuple):
    """The result of one program."""

    shape: str
    n: int
    case: Case
    seconds: Spread
    speedup: Spread | None
    """Against the reference with the same probes, if it was timed."""
    speedup_one_probe: Spread
    """Against the reference with the paper's one Rademacher probe."""
    temporary_bytes: int | None
    compile_seconds: float


def table(rows: Sequence[Row], product: Spread) -> str:
    """The rows as text."""
    lines = [f"{PRODUCT}³ float32 product: {product.median:.0f} GFLOP/s"]
    head = ["", "ms", "×reference", "quartiles", "×1 probe", "MB"]
    cells: list[list[str]] = []
    previous = None
    for row in rows:
        group = (row.shape, row.n, row.case.gradient)
        if group != previous:
            done = "value and gradients" if row.case.gradient else "value"
            cells.append([f"{row.shape}, N={row.n}, {done}"])
        previous = group
        speedup, peak = row.speedup, row.temporary_bytes
        cells.append(
            [
                f"  {row.case.label}",
                f"{1e3 * row.seconds.median:.2f}",
                "" if speedup is None else f"{speedup.median:.2f}",
                "" if speedup is None else f"{speedup.low:.2f}-{speedup.high:.2f}",
                f"{row.speedup_one_probe.median:.2f}",
                "" if peak is None else f"{peak / 1e6:.1f}",
            ]
        )
    return "\n".join([*lines, "", text_table(head, cells)])


def draw(rows: Sequence[Row]) -> Figure:
    """Milliseconds against N, log-log, one panel per head and pass."""
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
            spreads = [row.seconds.scaled(1e3) for row in points]
            panel.errorbar(
                [row.n for row in points],
                [spread.median for spread in spreads],
                bars(spreads),
                marker=marker,
                linestyle=style,
                color=f"C{kinds.index(case.probes.kind)}",
                capsize=3,
                label=case.label,
            )
        counts = sorted({row.n for row in rows})
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.set_xticks(counts, [str(n) for n in counts])
        panel.set_xlabel("states N")
        panel.set_ylabel("milliseconds per call")
        panel.set_title(f"{name}: {'value and gradients' if gradient else 'value'}")
        panel.grid(alpha=0.3, which="both")
    for panel in panels[:, 1]:
        panel.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize="small")
    return figure


def record(
    rows: Sequence[Row], product: Spread, left_out: dict[str, str], dtype: str
) -> dict[str, Any]:
    """The rows and their settings for the result file."""
    entries = []
    for row in rows:
        shape, case = SHAPES[row.shape], row.case
        number = case.probes.number(shape.c)
        work = op_flops(shape, row.n, number, gradient=case.gradient, reuse=case.reuse)
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
