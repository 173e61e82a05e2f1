"""Results of the overhead benchmark as table, plot and JSON."""

from typing import Any

import jax
from matplotlib.figure import Figure

from benchmarks.measure.tables import text_table
from benchmarks.measure.timing import Interval, bars
from benchmarks.overhead.rows import PAPER, Measured, Variant
from train.config import Config

RELEASED_RATIOS = {"1m": {0.5: 1.13, 1.0: 1.40}, "12m": {0.5: 1.13, 1.0: 1.55}}
"""Ratios of the authors' released GPLD code on two idle CPU cores, by size and ρ
(posterior; batch 16 × 64, imagination length 25; float32, JAX 0.4.33). Measured
separately, not by this benchmark."""


def table(baseline: Measured, found: dict[Variant, Measured]) -> str:
    """The rows as text, with the paper's ratio if it has one."""
    rows = []
    for row, result in [(None, baseline), *found.items()]:
        paper = row and row.target == "posterior" and row.probes == 1 and row.rho
        rows.append(
            [
                "no penalty, once more" if row is None else row.name,
                *_with_interval(result.step_ratio),
                *_with_interval(result.wall_ratio),
                f"{PAPER[paper]:.2f}" if paper else "-",
                f"{1e3 * result.step_seconds.median:.1f}",
                "-" if result.peak_bytes is None else f"{result.peak_bytes / 1e6:.0f}",
            ]
        )
    head = ["", "ratio", "95 %", "wall", "95 %", "paper", "ms", "MB"]
    baseline_ms = 1e3 * baseline.step_seconds.median
    return (
        f"step without penalty: {baseline_ms:.1f} ms; ratios of {clock()} and, apart, "
        f"of wall time\n{text_table(head, rows)}"
    )


def _with_interval(ratio: Interval) -> tuple[str, str]:
    return f"{ratio.median:.3f}", f"{ratio.low:.3f}-{ratio.high:.3f}"


def clock() -> str:
    """What a ratio is of, on this backend."""
    return "processor time" if jax.default_backend() == "cpu" else "wall time"


def draw(found: dict[Variant, Measured]) -> Figure:
    """Ratio against ρ, one line per kind of row, with the paper's points."""
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    axes = figure.subplots()
    lines: dict[str, list[tuple[float, Interval]]] = {}
    for row, result in found.items():
        label = row.name.replace(f"rho {row.rho:g} ", "")
        lines.setdefault(label, []).append((row.rho, result.step_ratio))
    for label, points in lines.items():
        rhos = [rho for rho, _ in points]
        medians = [spread.median for _, spread in points]
        sides = bars(spread for _, spread in points)
        axes.errorbar(rhos, medians, sides, marker="o", capsize=3, label=label)
    axes.plot(*zip(*PAPER.items(), strict=True), "k*", label="GPLD paper (its GPU)")
    axes.axhline(1.0, color="0.6", linewidth=0.8)
    axes.set_xlabel("sampling fraction ρ")
    axes.set_ylabel(f"train step / step without penalty, {clock()}")
    axes.legend(fontsize="small")
    return figure


def record(
    config: Config, baseline: Measured, found: dict[Variant, Measured]
) -> dict[str, Any]:
    """The result file's content."""
    shape = {
        "size": config.size,
        "batch_size": config.batch_size,
        "batch_length": config.batch_length,
        "imagination_length": config.imagination_length,
    }
    none = {"implementation": "none", "target": None, "rho": 0.0}
    none |= {"probe_kind": None, "probes": None}
    rows = [
        {
            **(none if row is None else row._asdict()),
            "step_ratio": result.step_ratio.median,
            "step_ratio_interval": result.step_ratio[1:],
            "wall_ratio": result.wall_ratio.median,
            "wall_ratio_interval": result.wall_ratio[1:],
            "step_seconds": result.step_seconds.median,
            "processor_seconds": result.processor_seconds.median,
            "compile_seconds": result.compile_seconds,
            "peak_bytes": result.peak_bytes,
            "flops": result.flops,
        }
        for row, result in [(None, baseline), *found.items()]
    ]
    return {
        "shape": shape,
        "clock": clock(),
        "interval": "95 % bootstrap interval of the median",
        "baseline_seconds": baseline.step_seconds._asdict(),
        "baseline_peak_bytes": baseline.peak_bytes,
        "paper": {str(rho): ratio for rho, ratio in PAPER.items()},
        "rows": rows,
        "not_measured": ["pallas: needs an NVIDIA GPU of the Hopper generation"],
    }
