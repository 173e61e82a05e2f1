"""What a traced program does, read from its jaxpr."""

from collections.abc import Iterator

import jax
from jax.extend.core import Jaxpr, JaxprEqn


def scans(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """All scans, those inside other operations included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from scans(inner)


def stored_by_scans(jaxpr: Jaxpr) -> list[int]:
    """How many arrays each scan stores of every step."""
    shape = lambda x: getattr(x, "shape", ())
    # A step's own results have one axis less than what is stored of them.
    return [
        sum(
            shape(out.aval) != shape(inner)
            for out, inner in zip(x.outvars, x.params["jaxpr"].out_avals, strict=True)
        )
        for x in scans(jaxpr)
    ]
