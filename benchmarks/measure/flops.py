"""FLOPs of the matrix products of a program, counted on its jaxpr."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax


def matmul_flops(fn: Callable[..., Any], *args: Any) -> int:
    """FLOPs of all matrix products in `fn(*args)`, two per multiply-add.

    Counted on the jaxpr: a scan's body times its length (XLA's own count takes it
    once), the most expensive branch of a conditional, and the sum over devices of a
    `shard_map`. The body of a while loop is counted once.
    """
    return count_flops(jax.make_jaxpr(fn)(*args).jaxpr)


def count_flops(jaxpr: Any) -> int:
    """`matmul_flops` of a jaxpr."""
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
    """The jaxprs that an equation calls: jit, remat, custom gradients."""
    for value in params.values():
        inner = getattr(value, "jaxpr", value)
        if hasattr(inner, "eqns"):
            yield inner
