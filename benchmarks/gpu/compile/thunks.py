"""What XLA's GPU runtime executes, in order: kernels, copies, CUDA graphs, loops.

XLA calls each a thunk, and lists them in the files that ``xla_dump_to`` asks for.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from benchmarks.gpu.compile.hlo import Hlo

NO_LAUNCH = frozenset(
    {
        "kAsyncDone",
        "kAsyncStart",
        "kCommandBuffer",
        "kConditional",
        "kDynamicSliceFusion",
        "kEmpty",
        "kSequential",
        "kWhile",
    }
)
"""Kinds that put no work on the device themselves: they order or hold others."""


class Loop(NamedTuple):
    """A while loop around an operation, and how often its body runs."""

    name: str
    trips: int


class Step(NamedTuple):
    """A thunk with how often it runs.

    Attributes:
        name: of the operation in the program; empty for what holds others.
        in_graph: whether it is part of a CUDA graph.
    """

    kind: str
    name: str
    times: int
    in_graph: bool
    loops: tuple[Loop, ...]

    @property
    def is_launch(self) -> bool:
        """Whether it puts work on the device."""
        return self.kind not in NO_LAUNCH


@dataclass
class _Thunk:
    kind: str
    number: int | None = None
    children: list["_Thunk"] = field(default_factory=list)


def steps(sequence: str, metadata: str, program: Hlo) -> Iterator[Step]:
    """All thunks of a program with how often each runs.

    A loop whose trip count XLA does not know, and every branch of a conditional, is
    taken once.

    Args:
        sequence: the text of ``…thunk_sequence….txt``.
        metadata: the text of ``…thunk_metadata.txt``: names, by thunk number.
    """
    pairs = re.findall(r'profile_annotation: "([^"]*)"\s+thunk_id: (\d+)', metadata)
    names = {int(number): name for name, number in pairs}
    yield from _walk(_parse(sequence), names, program, Step("", "", 1, False, ()))


def read_steps(folder: Path, program: Hlo) -> list[Step]:
    """The steps of the program that was compiled into a folder."""
    # A constant's own small programs may be there, too: the largest is meant.
    metadata = _largest(folder, "*thunk_metadata.txt")
    last = metadata.name.replace("thunk_metadata", "thunk_sequence_after_thunk_passes")
    sequence = metadata.with_name(last)
    if not sequence.is_file():
        sequence = metadata.with_name(
            metadata.name.replace("thunk_metadata", "thunk_sequence")
        )
    texts = [path.read_text(encoding="utf-8") for path in (sequence, metadata)]
    return list(steps(texts[0], texts[1], program))


def _largest(folder: Path, pattern: str) -> Path:
    return max(folder.glob(pattern), key=lambda path: path.stat().st_size)


def _parse(text: str) -> _Thunk:
    """The tree of thunks, by the indentation of their lines."""
    root = _Thunk("root")
    path: list[tuple[float, _Thunk]] = [(-1.0, root)]
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        found = re.match(r"\s*(\d+): (k\w+)", line)
        if found:
            while path[-1][0] >= indent:
                path.pop()
            thunk = _Thunk(found[2], int(found[1]))
        elif section := re.match(r"\s*(condition|body|branch|computation)", line):
            # Parts of the loop or conditional before, whatever their indentation.
            holder = "kWhile" if section[1] in ("condition", "body") else "kConditional"
            while path[-1][1].kind != holder:
                path.pop()
            indent, thunk = path[-1][0] + 0.5, _Thunk(section[1])
        else:
            continue
        path[-1][1].children.append(thunk)
        path.append((indent, thunk))
    return root


def _walk(
    holder: _Thunk, names: dict[int, str], program: Hlo, around: Step
) -> Iterator[Step]:
    for thunk in holder.children:
        name = names.get(thunk.number, "") if thunk.number is not None else ""
        step = around._replace(kind=thunk.kind, name=name)
        inside = around
        if thunk.kind == "kWhile":
            trips = program.trips(name)
            loop = Loop(name, trips or 1)
            inside = around._replace(
                times=around.times * loop.trips, loops=(*around.loops, loop)
            )
            # Where the count is known, its condition is never computed.
            parts = [x for x in thunk.children if not (trips and x.kind == "condition")]
            thunk = _Thunk(thunk.kind, children=parts)
        elif thunk.kind == "kCommandBuffer":
            inside = around._replace(in_graph=True)
        elif thunk.kind in ("kAsyncStart", "kDynamicSliceFusion"):
            # The program knows the outermost of these holders, not what they hold.
            inside = around._replace(name=around.name or name)
        if around.name and thunk.kind not in ("kAsyncStart", "kDynamicSliceFusion"):
            step = step._replace(name=around.name)
        if thunk.number is not None or thunk.kind == "kWhile":
            yield step
        yield from _walk(thunk, names, program, inside)
