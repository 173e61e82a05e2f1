"""The generated tables of the documentation, from result files."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.gpu.summary import summary
from benchmarks.overhead.report import RELEASED_RATIOS
from benchmarks.overhead.rows import RHOS
from benchmarks.throughput.report import PAPER_SHAPE, RELEASED

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
    sources = "; ".join(_source(result) for result in [*results, *measured])
    return "\n".join([*_table(header, rows), "", sources])


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
        *_table(
            ["penalty", *(f"ρ = {rho:g}" for rho in RHOS)],
            [
                [name, *(cells.get(rho, DASH) for rho in RHOS)]
                for name, cells in rows.items()
            ],
        ),
        "",
        _source(result),
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


def throughput(results: Sequence[Result], command: str) -> str:
    """An update by phase, several agents and the loop: three tables per file."""
    if not results:
        return not_measured(command)
    return "\n\n".join(
        "\n\n".join(
            [_updates(result.data)]
            + ([_scopes(result.data["traces"])] if result.data.get("traces") else [])
            + [_seeds(result.data), _loop(result.data["loop"])]
            + ([f"![throughput]({result.picture})"] if result.picture else [])
            + [_source(result)]
        )
        for result in results
    )


def _updates(data: Mapping[str, Any]) -> str:
    found = data["updates"]
    shape = found[0]
    names = list(shape["phases"])

    def column(update: Mapping[str, Any]) -> list[str]:
        seconds = update["seconds"]["median"]
        rate = update["flops"] / seconds
        cells = [
            f"{milliseconds(seconds)} ({1 / seconds:.3g} a second)",
            milliseconds(update["seconds_with_penalty"]["median"]),
        ]
        cells += [_phase(update["phases"][name]["median"], seconds) for name in names]
        cells += [
            f"{update['flops'] / 1e9:.0f} GFLOP",
            f"{rate / 1e9:.0f} of {update['product_flops'] / 1e9:.0f} GFLOP/s, "
            f"{100 * rate / update['product_flops']:.0f} %",
            _released(update),
            f"{update['compile_seconds']:.0f} s, {update['warm_seconds']:.0f} s",
            megabytes(update["peak_bytes"]),
        ]
        return cells

    labels = [
        "**one update**, without penalty",
        "with the posterior penalty, ρ = 0.5",
        *(f"of it: {name}" if name != "penalty" else "penalty" for name in names),
        "its matrix products",
        "their rate, of that of a large product",
        "released GPLD code, 2 quiet cores",
        "compiling: first, from the cache",
        "temporaries",
    ]
    columns = [column(update) for update in found]
    title = (
        f"batch {shape['batch_size']} × {shape['batch_length']}, imagination "
        f"{shape['imagination_length']}, {shape['dtype']}"
    )
    return "\n".join(
        _table(
            [title, *(update["size"] for update in found)],
            [[label, *cells] for label, *cells in zip(labels, *columns, strict=True)],
        )
    )


def _scopes(traces: Mapping[str, Any]) -> str:
    """Profiled time of an update with penalty, by named scope."""
    shares = {
        size: {
            name: part["seconds"] / sum(x["seconds"] for x in found["scopes"].values())
            for name, part in found["scopes"].items()
        }
        for size, found in traces.items()
    }
    names = list(dict.fromkeys(name for share in shares.values() for name in share))
    names.sort(key=lambda name: -sum(share.get(name, 0.0) for share in shares.values()))
    percent = lambda name, share: f"{100 * share.get(name, 0.0):.1f} %"
    rows = [[percent(name, share) for share in shares.values()] for name in names]
    title = "share of a profiled update with penalty, both cores added up"
    return "\n".join(
        _table(
            [title, *shares],
            [[name, *cells] for name, cells in zip(names, rows, strict=True)],
        )
    )


def _released(update: Mapping[str, Any]) -> str:
    theirs = RELEASED.get(update["size"])
    if theirs is None or _shape(update) != PAPER_SHAPE or update["dtype"] != "float32":
        return DASH
    ratio = update["seconds"]["median"] / theirs
    return f"{milliseconds(theirs)}; ours takes {ratio:.2f} of it"


def _phase(seconds: float, whole: float) -> str:
    if seconds <= 0:  # a difference of programs, of which XLA makes different things
        return "too small to tell"
    return f"{milliseconds(seconds)}, {100 * seconds / whole:.0f} %"


def _seeds(data: Mapping[str, Any]) -> str:
    found = data["seeds"]
    header = f"agents in one program, size {found[0]['size']}, with the penalty"
    times = [milliseconds(each["seconds"]["median"]) for each in found]
    rates = [f"{each['count'] / each['seconds']['median']:.3g}" for each in found]
    ratios = [f"{each['ratio']['median']:.2f}" for each in found]
    return "\n".join(
        _table(
            [header, *(str(each["count"]) for each in found)],
            [
                ["an update of all", *times],
                ["updates a second, all together", *rates],
                ["an agent's share, to one agent alone", *ratios],
            ],
        )
    )


def _loop(loop: Mapping[str, Any]) -> str:
    acting, replay = loop["collect_share"]["median"], loop["replay_share"]["median"]
    python = loop["host_share"]
    return "\n".join(
        _table(
            [f"the whole loop, preset `{loop['preset']}`, {loop['env']}", ""],
            [
                ["updates a second", f"{loop['updates_per_second']:.1f}"],
                ["environment steps a second", f"{loop['env_steps_per_second']:.0f}"],
                ["decisions a second", f"{loop['decisions_per_second']:.0f}"],
                ["of its time: acting", f"{100 * acting:.1f} %"],
                ["replay", f"{100 * replay:.1f} %"],
                ["Python: fetching, logging, progress", f"{100 * python:.2f} %"],
                [
                    "acting, replay and Python together",
                    f"{100 * (acting + replay + python):.1f} %",
                ],
            ],
        )
    )


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
            rows.append([f"`{stage}`", count, _source(result)])
            if stage not in LONG:
                blocks.append(f"`{stage}`:\n\n```\n{summary(parts)}\n```")
        if not found:
            rows.append([f"`{stage}`", "**not measured**", DASH])
    table = "\n".join(_table(["stage", "complete", "measured on"], rows))
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
    return "\n".join([*_table(header, rows), "", sources.rstrip()])


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


def _source(result: Result) -> str:
    return f"({result.source})"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]
