"""Functions of an environment: whether JAX can trace them, and what they return."""

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
    """What a function returns, as `jax.ShapeDtypeStruct`s; Python numbers are weak.

    Args:
        name: of the argument that the function was given as.
        function: to be traced.
        parameters: of the function, in words: `"(state, action)"`.
        arguments: to trace it with, arrays or `jax.ShapeDtypeStruct`s.

    Raises:
        ValueError: it is no function of these parameters, cannot be traced, or returns
            something that is neither a number nor an array.
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
    """What the function `name` returned, its numbers as arrays.

    Raises:
        ValueError: a leaf is no number and no array, or an integer beyond 32 bits.
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
    """A pytree in words: `float32[3]` for its arrays."""
    if tree is None:
        return "None"
    words = jax.tree.map(lambda x: _Word(f"{x.dtype}{list(x.shape)}"), tree)
    said = " ".join(repr(words).split())  # modules are shown on several lines
    return said if len(said) <= 200 else f"{said[:200]} …"


class _Word(str):
    """Text that is shown without quotes."""

    def __repr__(self) -> str:
        return str(self)
