"""Time of a train step by scope, with and without penalty, from profiler traces.

The implementation of `python -m benchmarks.overhead --profile DIR`.
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
"""Traced steps of each program."""
_NONE = "no penalty"
_SHOWN = 12  # number of penalty operations listed

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
        compiled: returns a function that starts a step, and its optimized HLO.
        rows: the programs.
        folder: receives the traces, one subfolder per program.
        say: prints progress.
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
    """Milliseconds per step by scope, one per program; the penalty is last."""
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
    """Time by scope and program, and the longest operations of the last penalty."""
    lines = [f"{chr(65 + place)}: {name}" for place, name in enumerate(found)]
    rows = [
        [f"    {name}", *(f"{ms:.1f}" for ms in times)]
        for name, times in scopes(found).items()
    ]
    spans = [1e3 * profile["span_seconds"] / STEPS for profile in found.values()]
    rows.append(["elapsed time", *(f"{ms:.1f}" for ms in spans)])
    letters = [chr(65 + place) for place in range(len(found))]
    lines.append(text_table(["ms per step, summed over cores", *letters], rows))
    lines.append(f"the penalty of {letters[-1]}:")
    lines += trace.trace_lines(((kind["name"], kind) for kind in longest(found)), STEPS)
    return "\n".join(lines)


def draw(found: Profiles) -> Figure:
    """One stacked bar per program, by scope."""
    figure = Figure(figsize=(9, 3.6), dpi=150, layout="constrained")
    axes = figure.subplots()
    left = [0.0] * len(found)
    for number, (name, times) in enumerate(scopes(found).items()):
        axes.barh(list(found), times, 0.6, left=left, color=f"C{number}", label=name)
        left = [start + ms for start, ms in zip(left, times, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("ms per step, summed over cores")
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def record(found: Profiles) -> dict[str, Any]:
    """The result file's content: time by scope, and the longest operations."""
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
