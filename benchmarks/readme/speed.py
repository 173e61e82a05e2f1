"""The speed of an update as Markdown, beside others and by phase; a run's start."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.readme.tables import (
    Result,
    markdown,
    megabytes,
    milliseconds,
    not_measured,
    source,
)


def beside(results: Sequence[Result], command: str) -> str:
    """Our step beside other programs', timed in one run: a table per file."""
    if not results:
        return not_measured(command)
    return "\n\n".join(_beside(result) for result in results)


def _beside(result: Result) -> str:
    data = result.data
    title = (
        f"one update at {data['size']}, batch {data['batch_size']} × "
        f"{data['batch_length']}, imagination {data['imagination_length']}"
    )
    ratio = lambda of: f"**{of['median']:.2f}** ({of['low']:.2f}–{of['high']:.2f})"
    rows = [
        [
            row["name"],
            milliseconds(row["wall"]["median"]),
            ratio(row["wall_ratio"]),
            ratio(row["processor_ratio"]),
        ]
        for row in data["rows"]
    ]
    lines = markdown([title, "wall time", "ratio", "of processor time"], rows)
    return "\n".join([*lines, "", source(result)])


def start(results: Sequence[Result], command: str) -> str:
    """How long a run takes until its first updates are done: a table per file."""
    if not results:
        return not_measured(command)
    return "\n\n".join(_start(result) for result in results)


def _start(result: Result) -> str:
    rows = [
        [
            f"`{each['run']}`",
            "filled" if each["cached"] else "empty",
            f"**{each['seconds'] - each['phases']['first updates']:.0f} s**",
            f"{each['seconds']:.0f} s",
            f"{each['processor_seconds']:.0f} s" if each["processor_seconds"] else "",
            ", ".join(
                f"{name} {x:.0f} s" for name, x in each["phases"].items() if x >= 1
            ),
        ]
        for each in result.data["starts"]
    ]
    head = [
        "run",
        "compiler cache",
        "until the first update",
        "until a chunk of them is done",
        "processor time",
        "of it",
    ]
    return "\n".join(
        [*markdown(head, rows), "", _programs(result.data), source(result)]
    )


def _programs(data: Mapping[str, Any]) -> str:
    """What compiling is spent on: a row for each program of a start without a cache."""
    stages = ("traced", "lowered", "compiled")
    rows = [
        [
            f"`{each['run']}`",
            f"`{name}`",
            *(f"{seconds[x]:.1f} s" if x in seconds else "" for x in stages),
        ]
        for each in data["starts"]
        if not each["cached"]
        for name, seconds in each.get("programs", {}).items()
    ]
    if not rows:
        return ""
    return "\n".join(
        [*markdown(["run, empty cache", "program", *stages], rows), "", ""]
    )


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
            + [source(result)]
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
        "compiling: first, from the cache",
        "temporaries",
    ]
    columns = [column(update) for update in found]
    title = (
        f"batch {shape['batch_size']} × {shape['batch_length']}, imagination "
        f"{shape['imagination_length']}, {shape['dtype']}"
    )
    return "\n".join(
        markdown(
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
        markdown(
            [title, *shares],
            [[name, *cells] for name, cells in zip(names, rows, strict=True)],
        )
    )


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
        markdown(
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
        markdown(
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
