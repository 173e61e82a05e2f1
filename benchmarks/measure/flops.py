"""How many floating-point operations the matrix products of a program take."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax


def matmul_flops(fn: Callable[..., Any], *args: Any) -> int:
    """Operations of all matrix products in `fn(*args)`, two for each multiply-add.

    Counted on the traced program, the body of a scan as often as it runs (XLA's own
    count takes it once), of a conditional its most expensive branch, and of what is
    divided among devices the work of all. While loops with a traced bound are taken
    once.
    """
    return count_flops(jax.make_jaxpr(fn)(*args).jaxpr)


def count_flops(jaxpr: Any) -> int:
    """The same of a program that was traced already, as a jaxpr."""
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            total += _product(equation)
        elif name == "scan":
            total += params["length"] * count_flops(params["jaxpr"].jaxpr)
        elif name == "cond":
            total += max(count_flops(branch.jaxpr) for branch in params["branches"])
        elif name == "shard_map":
            total += params["mesh"].size * count_flops(params["jaxpr"])
        else:
            total += sum(count_flops(inner) for inner in _inner(params))
    return total


def _product(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    depth = math.prod(left[axis] for axis in contracted)
    return 2 * depth * math.prod(equation.outvars[0].aval.shape)


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    """The programs that an equation calls: those of jit, remat, custom gradients."""
    for value in params.values():
        inner = getattr(value, "jaxpr", value)
        if hasattr(inner, "eqns"):
            yield inner
