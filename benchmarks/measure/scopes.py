"""Map the operations of a compiled program to parts of the algorithm."""

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
"""Names of the parts of the programs, set by `jax.named_scope`."""

_PASSES = 4  # longest chain of unnamed operations (copies of copies) resolved
_WRAPPERS = re.compile(r"^(\w*\()+|\)+$")


class Origin(NamedTuple):
    """The origin of an operation.

    Attributes:
        scope: such as ``imagine/heads``; empty outside of all scopes.
        operation: JAX's name, such as ``dot_general``; empty if inserted by XLA.
    """

    scope: str
    operation: str


def origins_of(program: str) -> dict[str, Origin]:
    """The origin of every operation of a compiled program.

    An operation of a gradient has the scope of the forward operation. One inserted by
    XLA, such as a copy, gets the scope of its first input, or else of its first user.

    Args:
        program: the optimized HLO, `compiled.as_text()`.
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
    """Name, inputs and JAX's `op_name` path (or None) of each HLO instruction."""
    for line in program.splitlines():
        head, found, rest = line.partition(" = ")
        if not found:
            continue
        body, _, metadata = rest.partition("metadata={")
        path = re.search(r'op_name="([^"]*)"', metadata)
        name = head.split()[-1].lstrip("%")
        yield name, re.findall(r"%([\w.\-]+)", body), path and path[1]


def _origin(path: str) -> Origin:
    """Parse a path like ``jit(f)/transpose(jvp(imagine))/while/body/dot_general``."""
    parts = [_WRAPPERS.sub("", part) for part in path.split("/")]
    # A differentiated loop has its scope twice in the path.
    scopes = dict.fromkeys(part for part in parts if part in SCOPES)
    return Origin("/".join(scopes), parts[-1])
