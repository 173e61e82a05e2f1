"""Cross-device communication of a compiled program: the collectives in its HLO text.

A collective inside a loop is multiplied by the trip count, if XLA knows it. Bytes are
those of the result on one device.
"""

import math
import re
from collections import Counter
from typing import NamedTuple

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4,
    "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8,
}  # fmt: skip
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_CALLS = re.compile(
    r"(?:body|condition|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_KIND = re.compile(rf" ({'|'.join(KINDS)})(?:-start)?\(")
_SHAPE = re.compile(r"\b(\w+)\[([\d,]*)\]")


class Collective(NamedTuple):
    """Collectives of one kind and size (bytes each): how many run."""

    kind: str
    size: int
    count: int


class Found(NamedTuple):
    """All collectives of a program; loops of unknown trip count are counted once."""

    collectives: list[Collective]
    unknown_loops: int
    """Loops that contain a collective and have an unknown trip count."""

    @property
    def count(self) -> int:
        """Total number of collectives."""
        return sum(each.count for each in self.collectives)

    @property
    def size(self) -> int:
        """Total bytes."""
        return sum(each.count * each.size for each in self.collectives)


def read(hlo: str) -> Found:
    """The collectives of a compiled program (`compiled.as_text()`)."""
    computations, entry = _computations(hlo)
    unknown = 0

    def visit(name: str) -> Counter[tuple[str, int]]:
        nonlocal unknown
        found: Counter[tuple[str, int]] = Counter()
        for line in computations.get(name, []):
            kind = _KIND.search(line)
            if kind:
                found[kind[1], _result_bytes(line, kind.start())] += 1
                continue
            called = _CALLS.findall(line)
            for group in _BRANCHES.findall(line):
                called += [part.strip().lstrip("%") for part in group.split(",")]
            inside: Counter[tuple[str, int]] = Counter()
            for part in called:
                inside += visit(part)
            if not inside:
                continue
            times = 1
            if " while(" in line:
                trips = _TRIPS.search(line)
                if trips:
                    times = int(trips[1])
                else:
                    unknown += 1
            for key, number in inside.items():
                found[key] += times * number
        return found

    total = visit(entry)
    ordered = sorted(total.items(), key=lambda item: -item[0][1] * item[1])
    return Found([Collective(*key, n) for key, n in ordered], unknown)


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    found: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in hlo.splitlines():
        head = _HEAD.match(line)
        if head:
            lines = found.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif line.startswith("  "):
            lines.append(line)
    return found, entry


def _result_bytes(line: str, end: int) -> int:
    """Bytes of the shapes between the equals sign and the operation's name."""
    shapes = _SHAPE.findall(line[line.index("=") : end])
    return sum(
        _BYTES[kind] * math.prod(int(n) for n in dims.split(",") if n)
        for kind, dims in shapes
        if kind in _BYTES
    )
