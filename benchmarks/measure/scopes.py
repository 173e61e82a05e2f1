"""Which part of the algorithm an operation of a compiled program belongs to."""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

SCOPES = (
    "collect",
    "replay",
    "world_model",
    "encoder",
    "observe",
    "imagine",
    "heads",
    "actor_critic",
    "penalty",
    "optimizer",
)
"""What the programs call their parts, by `jax.named_scope`."""

_PASSES = 4  # a copy of a copy of a copy finds its origin in so many
_WRAPPERS = re.compile(r"^(\w*\()+|\)+$")


class Origin(NamedTuple):
    """Where an operation comes from.

    Attributes:
        scope: such as ``imagine/heads``; empty outside of all scopes.
        operation: what JAX calls it, such as ``dot_general``; empty if XLA put it in.
    """

    scope: str
    operation: str


def origins_of(program: str) -> dict[str, Origin]:
    """The origin of every operation of a compiled program.

    A gradient's operation has the scope of what it is the gradient of. One that XLA put
    in itself, such as a copy, says nothing: it counts to the scope of what it copies,
    or else of what first uses it.

    Args:
        program: the text of the optimized program, `compiled.as_text()`.
    """
    found: dict[str, Origin] = {}
    silent: dict[str, list[str]] = {}
    users: dict[str, list[str]] = defaultdict(list)
    for name, inputs, path in _instructions(program):
        for each in inputs:
            users[each].append(name)
        if path is None:
            silent[name] = inputs
        else:
            found[name] = _origin(path)
    for near in (silent, users):
        for _ in range(_PASSES):
            for name in silent:
                neighbour = found.get(next(iter(near.get(name, [])), ""))
                if name not in found and neighbour and neighbour.scope:
                    found[name] = Origin(neighbour.scope, "")
    return found


def _instructions(program: str) -> Iterator[tuple[str, list[str], str | None]]:
    """Name, inputs, and the path JAX gave it, of each line of a program's text."""
    for line in program.splitlines():
        head, found, rest = line.partition(" = ")
        if not found:
            continue
        body, _, metadata = rest.partition("metadata={")
        path = re.search(r'op_name="([^"]*)"', metadata)
        name = head.split()[-1].lstrip("%")
        yield name, re.findall(r"%([\w.\-]+)", body), path and path[1]


def _origin(path: str) -> Origin:
    """Of a path such as ``jit(f)/transpose(jvp(imagine))/while/body/dot_general``."""
    parts = [_WRAPPERS.sub("", part) for part in path.split("/")]
    # The same scope stands there twice where a loop is differentiated.
    scopes = dict.fromkeys(part for part in parts if part in SCOPES)
    return Origin("/".join(scopes), parts[-1])
