"""Results of the overhead benchmark as table, plot and JSON."""

from typing import Any

from matplotlib.figure import Figure

from benchmarks.measure.tables import text_table
from benchmarks.measure.timing import Spread, bars
from benchmarks.overhead.rows import PAPER, Measured, Variant
from train.config import Config

RELEASED_RATIOS = {"1m": {0.5: 1.13, 1.0: 1.40}, "12m": {0.5: 1.13, 1.0: 1.55}}
"""Ratios of the authors' released GPLD code on two idle CPU cores, by size and ρ
(posterior; batch 16 × 64, imagination length 25; float32, JAX 0.4.33). Measured
separately, not by this benchmark."""


def table(baseline: Measured, found: dict[Variant, Measured]) -> str:
    """The rows as text, with the paper's ratio if it has one."""
    rows = []
    for row, result in found.items():
        assert result.step_ratio is not None
        ratio = result.step_ratio
        paper = PAPER.get(row.rho) if row.target == "posterior" else None
        rows.append(
            [
                row.name,
                f"{ratio.median:.3f}",
                f"{ratio.low:.3f}-{ratio.high:.3f}",
                f"{paper:.2f}" if paper and row.probes == 1 else "-",
                f"{1e3 * result.step_seconds.median:.1f}",
                "-" if result.peak_bytes is None else f"{result.peak_bytes / 1e6:.0f}",
            ]
        )
    head = ["", "ratio", "quartiles", "paper", "ms", "MB"]
    baseline_ms = 1e3 * baseline.step_seconds.median
    return f"step without penalty: {baseline_ms:.1f} ms\n{text_table(head, rows)}"


def draw(found: dict[Variant, Measured]) -> Figure:
    """Ratio against ρ, one line per kind of row, with the paper's points."""
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    axes = figure.subplots()
    lines: dict[str, list[tuple[float, Spread]]] = {}
    for row, result in found.items():
        assert result.step_ratio is not None
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
    axes.set_ylabel("train step time / step without penalty")
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
    rows = []
    for row, result in found.items():
        assert result.step_ratio is not None
        rows.append(
            {
                **row._asdict(),
                "step_ratio": result.step_ratio.median,
                "step_ratio_quartiles": [result.step_ratio.low, result.step_ratio.high],
                "step_seconds": result.step_seconds.median,
                "compile_seconds": result.compile_seconds,
                "peak_bytes": result.peak_bytes,
                "flops": result.flops,
            }
        )
    return {
        "shape": shape,
        "baseline_seconds": baseline.step_seconds._asdict(),
        "baseline_peak_bytes": baseline.peak_bytes,
        "paper": {str(rho): ratio for rho, ratio in PAPER.items()},
        "rows": rows,
        "not_measured": ["pallas: needs an NVIDIA GPU of the Hopper generation"],
    }
