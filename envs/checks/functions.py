"""Checks that JAX can trace a function, and of what it returns."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

_NOT_TRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


def traced(name: str, function: Any, parameters: str, *arguments: PyTree) -> PyTree:
    """Result of a function as `jax.ShapeDtypeStruct`s; Python numbers are weak types.

    Args:
        name: the function's name in error messages.
        function: the function to trace.
        parameters: its parameters in error messages: `"(state, action)"`.
        arguments: arrays or `jax.ShapeDtypeStruct`s to trace it with.

    Raises:
        ValueError: it does not take these parameters, cannot be traced, or returns
            a leaf that is neither a number nor an array.
    """
    check_callable(name, function, parameters)

    def numbers(*arguments: PyTree) -> PyTree:
        return arrays(name, function(*arguments))

    try:
        return jax.eval_shape(numbers, *arguments)
    except _NOT_TRACEABLE as error:
        raise ValueError(
            f"{name} uses the value of an array where JAX needs it to be known while "
            "it traces: take jnp.where or jax.lax.cond for `if`, and no float(), int() "
            "or bool()"
        ) from error
    except jax.errors.TracerArrayConversionError as error:
        raise ValueError(
            f"{name} hands an array to numpy while JAX traces it: take jax.numpy "
            "(jnp) for np"
        ) from error


def check_callable(name: str, function: Any, parameters: str) -> None:
    """Raises ValueError unless `function` can be called with these parameters."""
    if not callable(function):
        raise ValueError(
            f"{name} is {type(function).__name__}, but must be a function {parameters}"
        )
    try:
        signature = inspect.signature(function)
    except ValueError:  # written in C; calling it will tell
        return
    try:
        signature.bind(*parameters.strip("()").split(","))
    except TypeError as error:
        raise ValueError(
            f"{name} is called as {name}{parameters}, but is {name}{signature}: {error}"
        ) from None


def arrays(name: str, tree: PyTree) -> PyTree:
    """The result of the function `name`, with numbers converted to arrays.

    Raises:
        ValueError: a leaf is neither a number nor an array, or exceeds int32.
    """

    def convert(path: tuple[Any, ...], leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array):
            return leaf
        try:
            return jnp.asarray(leaf)
        except (TypeError, ValueError, OverflowError) as error:
            large = isinstance(error, OverflowError)
            where = f" at {jax.tree_util.keystr(path)}" if path else ""
            why = "too large for int32" if large else "no number and no array"
            raise ValueError(f"{name} returns {leaf!r:.60}{where}: {why}") from None

    return jax.tree_util.tree_map_with_path(convert, tree)


def types(tree: PyTree) -> str:
    """A pytree as text, with `float32[3]` for its arrays."""
    if tree is None:
        return "None"
    words = jax.tree.map(lambda x: _Word(f"{x.dtype}{list(x.shape)}"), tree)
    said = " ".join(repr(words).split())  # modules are shown on several lines
    return said if len(said) <= 200 else f"{said[:200]} …"


class _Word(str):
    """Text whose `repr` has no quotes."""

    def __repr__(self) -> str:
        return str(self)
