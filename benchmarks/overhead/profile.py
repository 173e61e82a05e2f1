"""Where the time of a train step goes with and without penalty, by a profiler's trace.

What `python -m benchmarks.overhead --profile DIR` prints, draws and writes.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from matplotlib.figure import Figure

from benchmarks.measure import trace
from benchmarks.measure.tables import text_table
from benchmarks.overhead.rows import Variant

STEPS = 3
"""Traced of each program."""
_NONE = "no penalty"
_SHOWN = 12  # longest operations of the penalty

Profiles = dict[str, dict[str, Any]]
"""`benchmarks.measure.trace.summary` by program, the one without penalty first."""


def programs(*, quick: bool) -> list[Variant | None]:
    """The step without penalty, with the default one, and with the exact norm."""
    default = [Variant("xla", "posterior", rho, "rademacher", 1) for rho in (0.5, 1.0)]
    exact = Variant("xla", "posterior", 1.0, "exact", None)
    return [None, exact] if quick else [None, *default, exact]


def measure(
    compiled: Callable[[Variant | None], tuple[Callable[[], object], str]],
    rows: Sequence[Variant | None],
    folder: Path,
    *,
    say: Callable[[str], None] = print,
) -> Profiles:
    """Trace some steps of each program.

    Args:
        compiled: gives a program that begins a step, and its optimized text.
        rows: which programs.
        folder: the traces stay there, each in a folder of its own.
    """
    found: Profiles = {}
    for row in rows:
        name = _NONE if row is None else row.name
        call, text = compiled(row)

        def steps(call: Callable[[], object] = call) -> None:
            for _ in range(STEPS):
                jax.block_until_ready(call())

        path = folder / name.replace(" ", "-")
        found[name] = {"steps": STEPS, **trace.traced(steps, text, path, top=200)}
        say(f"traced: {name}")
    return found


def scopes(found: Profiles) -> dict[str, list[float]]:
    """Milliseconds of a step by scope, one for each program; the penalty comes last."""
    names = {name for profile in found.values() for name in profile["scopes"]}
    times = {
        name: [
            1e3 * profile["scopes"].get(name, {"seconds": 0.0})["seconds"] / STEPS
            for profile in found.values()
        ]
        for name in names
    }
    order = sorted(times, key=lambda name: (name == "penalty", -max(times[name])))
    return {name: times[name] for name in order}


def longest(found: Profiles) -> list[Mapping[str, Any]]:
    """The longest operations of the penalty in the last program."""
    kinds = list(found.values())[-1]["kinds"]
    return [kind for kind in kinds if kind["scope"].startswith("penalty")][:_SHOWN]


def table(found: Profiles) -> str:
    """Time by scope and program, and what the last program's penalty consists of."""
    lines = [f"{chr(65 + place)}: {name}" for place, name in enumerate(found)]
    rows = [
        [f"    {name}", *(f"{ms:.1f}" for ms in times)]
        for name, times in scopes(found).items()
    ]
    spans = [1e3 * profile["span_seconds"] / STEPS for profile in found.values()]
    rows.append(["time that passed", *(f"{ms:.1f}" for ms in spans)])
    letters = [chr(65 + place) for place in range(len(found))]
    lines.append(text_table(["milliseconds of a step, over all cores", *letters], rows))
    lines.append(f"the penalty of {letters[-1]}:")
    lines += trace.trace_lines(((kind["name"], kind) for kind in longest(found)), STEPS)
    return "\n".join(lines)


def draw(found: Profiles) -> Figure:
    """A bar for each program, by scope."""
    figure = Figure(figsize=(9, 3.6), dpi=150, layout="constrained")
    axes = figure.subplots()
    left = [0.0] * len(found)
    for number, (name, times) in enumerate(scopes(found).items()):
        axes.barh(list(found), times, 0.6, left=left, color=f"C{number}", label=name)
        left = [start + ms for start, ms in zip(left, times, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds of a step, over all cores")
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def record(found: Profiles) -> dict[str, Any]:
    """The result file's content: of each program its scopes and longest operations."""
    return {
        "steps": STEPS,
        "profiles": {
            name: {
                "span_seconds": profile["span_seconds"],
                "busy_share": profile["busy_share"],
                "scopes": profile["scopes"],
            }
            for name, profile in found.items()
        },
        "penalty_operations": {"of": list(found)[-1], "kinds": longest(found)},
    }
