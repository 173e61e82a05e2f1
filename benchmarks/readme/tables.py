"""The generated tables of the documentation, from result files."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.gpu.summary import summary
from benchmarks.overhead.report import RELEASED_RATIOS
from benchmarks.overhead.rows import RHOS
from benchmarks.throughput.report import PAPER_SHAPE

DASH = "–"
LONG = ("kernel", "env")
"""Stages with too many numbers for the page; see their result files."""


@dataclasses.dataclass(frozen=True)
class Result:
    """A result file: its relative link, its content, and its plot if there is one."""

    link: str
    data: Mapping[str, Any]
    picture: str | None = None

    @property
    def source(self) -> str:
        """Machine, date and commit, with a link to the file."""
        origin = self.data["provenance"]
        machine, commit = origin["machine"], origin["commit"]
        devices = sorted(set(machine.get("devices", [])))
        where = f"{machine['cpu']}, {machine['cores']} cores"
        if devices and devices != ["cpu"]:
            where = f"{', '.join(devices)} ({where})"
        code = "no commit" if commit is None else f"commit {commit[:7]}"
        if origin.get("modified"):
            code += " with uncommitted changes"
        jax = origin["versions"]["jax"]
        day = origin["date"][:10]
        return f"{where}, jax {jax}, {day}, {code}: [data]({self.link})"


_HEADLINE = {
    "posterior, one random probe (the paper's method), ρ = 0.5": ("rademacher", 0.5),
    "posterior, one random probe, ρ = 1": ("rademacher", 1.0),
    "posterior, **exact** norm, ρ = 1": ("exact", 1.0),
}


def headline(
    results: Sequence[Result], command: str, on_gpu: Sequence[Result] = ()
) -> str:
    """Ratio of the train step with the penalty to the step without, by model size.

    Args:
        results: of the overhead benchmark.
        on_gpu: of the stage "all" of the GPU benchmark.
    """
    if not results:
        return not_measured(command)
    found = {result.data["shape"]["size"]: result.data for result in results}
    rows = []
    for label, (probe_kind, rho) in _HEADLINE.items():
        cells = []
        for data in found.values():
            row = next(
                (
                    row
                    for row in data["rows"]
                    if (row["implementation"], row["target"]) == ("xla", "posterior")
                    and (row["probe_kind"], row["rho"]) == (probe_kind, rho)
                ),
                None,
            )
            cells.append(DASH if row is None else _ratio(row))
        rows.append([label, *cells])
    measured = []
    for result in on_gpu:
        ratios = _updates_ahead(result)
        if set(found) <= set(ratios):
            (device,) = result.data["provenance"]["machine"]["devices"]
            cells = [ratios[size] for size in found]
            rows.append(
                [f"the paper's method, fused kernel, {device}, ρ = 0.5", *cells]
            )
            measured.append(result)
    for rho in (0.5, 1.0):
        theirs = [RELEASED_RATIOS.get(size, {}).get(rho) for size in found]
        cells = [DASH if ratio is None else f"{ratio:.2f}" for ratio in theirs]
        rows.append([f"the authors' code, 2 quiet CPU cores, ρ = {rho:g}", *cells])
    header = ["train step with the penalty, as a ratio to the step without", *found]
    sources = "; ".join(source(result) for result in [*results, *measured])
    return "\n".join([*markdown(header, rows), "", sources])


def _updates_ahead(result: Result) -> dict[str, str]:
    """By size: the update with the fused kernel against the one without penalty.

    Both as compiled without a GPU, with products by cuBLAS (`docs/gpu.md`).
    """
    cells = {}
    for part in result.data["parts"].values():
        for name, entry in part["entries"].items():
            given = re.fullmatch(r"update-pallas-(\w+)-cublas, time", name)
            if given and entry["against"] == f"update-none-{given[1]}-cublas":
                ratio = entry["ratio"]
                low, high = ratio["low"], ratio["high"]
                cells[given[1]] = f"**{ratio['median']:.3f}** ({low:.3f}–{high:.3f})"
    return cells


def _ratio(row: Mapping[str, Any]) -> str:
    low, high = row["step_ratio_interval"]
    return f"**{row['step_ratio']:.2f}** ({low:.2f}–{high:.2f})"


def overhead(results: Sequence[Result], command: str) -> str:
    """Overhead of the penalty: one table per file, the smallest model first."""
    if not results:
        return not_measured(command)
    return "\n\n".join(_overhead(result) for result in results)


def _overhead(result: Result) -> str:
    data = result.data
    shape = data["shape"]
    base = data["baseline_seconds"]
    rows: dict[str, dict[float, str]] = {}
    again, *measured = data["rows"]
    for row in measured:
        cell = f"{_ratio(row)} {milliseconds(row['step_seconds'])}"
        rows.setdefault(_variant(row), {})[row["rho"]] = cell
    rows["the GPLD paper, on its GPU"] = {
        float(rho): f"{ratio:.2f}" for rho, ratio in data["paper"].items()
    }
    released = RELEASED_RATIOS.get(shape["size"])
    if released is not None and _shape(shape) == PAPER_SHAPE:
        rows["its authors' released code, 2 quiet CPU cores"] = {
            rho: f"{ratio:.2f}" for rho, ratio in released.items()
        }
    lines = [
        f"Size {shape['size']}, batch {shape['batch_size']} × {shape['batch_length']}, "
        f"imagination length {shape['imagination_length']}: "
        f"{milliseconds(base['median'])} a step without the penalty (quartiles "
        f"{milliseconds(base['low'])}–{milliseconds(base['high'])}). With it, "
        f"{data['clock']} as a ratio of the same round (95 % interval of the median), "
        "and in wall time; the step without penalty against itself is "
        f"{_ratio(again)}:",
        "",
        *markdown(
            ["penalty", *(f"ρ = {rho:g}" for rho in RHOS)],
            [
                [name, *(cells.get(rho, DASH) for rho in RHOS)]
                for name, cells in rows.items()
            ],
        ),
        "",
        source(result),
    ]
    return "\n".join(lines)


def _variant(row: Mapping[str, Any]) -> str:
    kinds = {
        ("rademacher", 1): "one random probe",
        ("exact", None): "exact",
    }
    probes = f"{row['probes']} {row['probe_kind'].capitalize()} probes"
    kind = kinds.get((row["probe_kind"], row["probes"]), probes)
    forms = {"reference": ", by vector-Jacobian products", "pallas": ", fused kernel"}
    return f"{row['target']}, {kind}{forms.get(row['implementation'], '')}"


def gpu(results: Mapping[str, Sequence[Result]]) -> str:
    """The stages of the GPU benchmark that have been run, and their results.

    Args:
        results: result files by stage, empty if it was not run.
    """
    rows, blocks = [], []
    for stage, found in results.items():
        for result in found:
            parts = result.data["parts"]
            complete = sum(part["ended"] == "complete" for part in parts.values())
            count = f"{complete} of {len(parts)} parts"
            rows.append([f"`{stage}`", count, source(result)])
            if stage not in LONG:
                blocks.append(f"`{stage}`:\n\n```\n{summary(parts)}\n```")
        if not found:
            rows.append([f"`{stage}`", "**not measured**", DASH])
    table = "\n".join(markdown(["stage", "complete", "measured on"], rows))
    return "\n\n".join([table, *blocks])


def compiled(results: Sequence[Result], command: str) -> str:
    """Launches of each program, in the order in which they were counted."""
    if not results:
        return not_measured(command)
    ordered = sorted(results, key=lambda result: result.data["provenance"]["date"])
    header = ["program", "launches", "host launches", "temporaries", "model"]
    # Before and after, where a program was counted twice.
    cells: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for result in ordered:
        for row in result.data["rows"]:
            if "error" not in row:
                cells.setdefault((row["program"], row["device"]), []).append(row)
    words = {
        "launches": lambda row: f"{row['launches']:,}",
        "host launches": lambda row: f"{row['from_host']:,}",
        "temporaries": lambda row: megabytes(row["temp_bytes"]),
        "model": lambda row: f"{row['model_ms']:.3g} ms",
    }
    rows = []
    for (program, device), found in cells.items():
        several = lambda name, found=found: " → ".join(
            dict.fromkeys(words[name](row) for row in found)
        )
        rows.append([f"{program}, {device.upper()}", *map(several, header[1:])])
    sources = "\n".join(f"{result.source}  " for result in ordered)
    return "\n".join([*markdown(header, rows), "", sources.rstrip()])


def not_measured(command: str) -> str:
    """The text for a missing result file."""
    return f"**Not measured yet.** `{command}` measures it."


def milliseconds(seconds: float) -> str:
    """As ms with three significant digits."""
    value = 1e3 * seconds
    return f"{value:.0f} ms" if abs(value) >= 100 else f"{value:.3g} ms"


def megabytes(count: int | None) -> str:
    """Bytes as MB, or a dash if the backend does not report them."""
    return DASH if count is None else f"{count / 1e6:.0f} MB"


def _shape(found: Mapping[str, Any]) -> tuple[int, int, int]:
    return (found["batch_size"], found["batch_length"], found["imagination_length"])


def source(result: Result) -> str:
    """Where a table's numbers come from, in brackets."""
    return f"({result.source})"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]
