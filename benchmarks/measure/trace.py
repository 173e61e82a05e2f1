"""Summarize a profiler trace: busy time of the device, and time by operation."""

import gzip
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from benchmarks.measure.scopes import Origin, origins_of

_REST = "no scope"


class Event(NamedTuple):
    """One operation on a device; times in microseconds."""

    name: str
    thread: tuple[int, int]
    start: float
    length: float
    op: str = ""
    """XLA's name of the operation, which can differ from the kernel's name."""


def traced(
    call: Callable[[], object], program: str, folder: Path, *, top: int = 20
) -> dict[str, Any]:
    """`summary` of one call, after an untraced warm-up call.

    Args:
        call: starts a compiled program.
        program: its optimized HLO, `compiled.as_text()`.
        folder: where the trace is written.
        top: as in `summary`.
    """
    jax.block_until_ready(call())
    with jax.profiler.trace(str(folder)):
        jax.block_until_ready(call())
    return summary(newest(folder), top=top, origins=origins_of(program))


def newest(folder: Path) -> Path:
    """The latest trace below a folder written by `jax.profiler.trace`.

    Raises:
        FileNotFoundError: there is none.
    """
    found = sorted(folder.rglob("*.trace.json.gz"))
    if not found:
        raise FileNotFoundError(f"{folder}: no *.trace.json.gz below it")
    return found[-1]


def summary(
    path: Path, *, top: int = 20, origins: Mapping[str, Origin] | None = None
) -> dict[str, Any]:
    """Total and busy time of the device, and its operations by time, as JSON.

    Operations that differ only in XLA's numbering are one kind. An operation that
    contains others, such as a loop, has only its own time. Reading a trace of millions
    of operations takes gigabytes of memory, so trace few updates.

    Args:
        path: a ``*.trace.json.gz``.
        top: number of kinds to list.
        origins: by operation, from `scopes.origins_of`: also gives the time by scope
            and separates kinds by scope.
    """
    events = read(path)
    kinds: dict[tuple[str, str], list[float]] = defaultdict(list)
    scopes: dict[str, list[float]] = defaultdict(list)
    for event, seconds in own_seconds(events):
        name = re.sub(r"([._]\d+)+$", "", event.name)
        origin = (origins or {}).get(event.op, Origin("", ""))
        if origin.operation:
            name = f"{name} ({origin.operation})"
        kinds[origin.scope, name].append(seconds)
        scopes[origin.scope or _REST].append(seconds)
    order = _longest_first(kinds)
    span, busy = span_and_busy(events)
    return {
        "operations": len(events),
        "span_seconds": span,
        "busy_seconds": busy,
        "busy_share": busy / span if span else 0.0,
        "kinds": [
            {"name": kind[1], "scope": kind[0], **_sum(kinds[kind])}
            for kind in order[:top]
        ],
        "other_seconds": sum(sum(kinds[kind]) for kind in order[top:]),
        "scopes": {}
        if origins is None
        else {name: _sum(scopes[name]) for name in _longest_first(scopes)},
    }


def trace_lines(
    parts: Iterable[tuple[str, Mapping[str, Any]]], steps: int
) -> list[str]:
    """Count and milliseconds per step of each part of a trace, as lines of text."""
    return [
        f"    {name.strip()[:56]:56} {part['count'] / steps:7.0f} times "
        f"{1e3 * part['seconds'] / steps:9.1f} ms"
        for name, part in parts
    ]


def _longest_first[T](times: Mapping[T, Sequence[float]]) -> list[T]:
    return sorted(times, key=lambda name: -sum(times[name]))


def _sum(seconds: Sequence[float]) -> dict[str, float]:
    return {"count": len(seconds), "seconds": sum(seconds)}


def read(path: Path) -> list[Event]:
    """The operations of a trace: on a GPU those in streams, on a CPU XLA's.

    Parsed here: `jax.profiler.ProfileData` finds the same events in the `.xplane.pb`
    (2,000,003 in both, JAX 0.12), so it does not avoid the limit on traced events.
    """
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [row for row in json.load(file)["traceEvents"] if row]
    processes: dict[int, str] = {}
    threads: dict[tuple[int, int], str] = {}
    for row in rows:
        if row.get("name") == "process_name":
            processes[row["pid"]] = row["args"]["name"]
        elif row.get("name") == "thread_name":
            threads[row["pid"], row["tid"]] = row["args"]["name"]
    gpus = {pid for pid, name in processes.items() if "/device:GPU" in name}

    def wanted(row: dict[str, Any]) -> bool:
        if row.get("ph") != "X":
            return False
        if gpus:
            thread = threads.get((row["pid"], row["tid"]), "")
            return row["pid"] in gpus and thread.startswith("Stream")
        return "hlo_op" in row.get("args", {})

    return [
        Event(
            row["name"],
            (row["pid"], row["tid"]),
            row["ts"],
            row["dur"],
            row.get("args", {}).get("hlo_op", row["name"]),
        )
        for row in rows
        if wanted(row)
    ]


def own_seconds(events: Sequence[Event]) -> list[tuple[Event, float]]:
    """Each operation with its seconds, minus those of operations nested in it."""
    found: list[tuple[Event, float]] = []
    open_: dict[tuple[int, int], list[tuple[float, int]]] = defaultdict(list)
    for event in sorted(events, key=lambda each: (each.start, -each.length)):
        around = open_[event.thread]
        while around and around[-1][0] <= event.start:
            around.pop()
        if around:
            outer, seconds = found[around[-1][1]]
            found[around[-1][1]] = outer, seconds - 1e-6 * event.length
        around.append((event.start + event.length, len(found)))
        found.append((event, 1e-6 * event.length))
    return found


def span_and_busy(events: Sequence[Event]) -> tuple[float, float]:
    """Seconds from the first start to the last end, and seconds with any operation."""
    busy, until = 0.0, float("-inf")
    first = min((event.start for event in events), default=0.0)
    last = max((event.start + event.length for event in events), default=0.0)
    for event in sorted(events, key=lambda each: each.start):
        end = event.start + event.length
        busy += max(end - max(event.start, until), 0.0)
        until = max(until, end)
    return 1e-6 * (last - first), 1e-6 * busy
