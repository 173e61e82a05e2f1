"""What an environment is made of, checked once: when it is made.

Each check raises ValueError in one line: the argument, what was found, the remedy. The
functions of an environment are traced with `jax.eval_shape`, so nothing is computed.
"""

import inspect
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

MAX_STEPS = 2**31 - 1
"""Steps are counted in int32."""

IMAGE_MULTIPLE = 16
"""The image networks halve height and width four times."""

CHANNELS = 3

_NOT_TRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


def whole(name: str, value: Any, *, high: int = MAX_STEPS, hint: str = "") -> int:
    """`value` as an int, from 1 to `high`.

    Raises:
        ValueError: it is no integer, or out of range.
    """
    allowed = f"an integer from 1 to {high}{hint}"
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name}={value!r} must be {allowed}") from None
    if not 1 <= number <= high:
        least = "at least 1" if number < 1 else allowed
        raise ValueError(f"{name}={value} must be {least}")
    return number


def length(name: str, value: Any) -> int:
    """`value` as an int, from 0: whether 0 will do depends on what has that length."""
    return 0 if value == 0 else whole(name, value)


def limits(low: Any, high: Any) -> tuple[float, float]:
    """The bounds of an action as floats.

    Raises:
        ValueError: they are not finite, or none is above the other.
    """
    if not -math.inf < low < high < math.inf:
        raise ValueError(
            f"action_low={low}, action_high={high}: both must be finite, and the "
            "second above the first"
        )
    return float(low), float(high)


def positive(name: str, value: Any) -> float:
    """`value` as a float that is finite and above 0.

    Raises:
        ValueError: it is not.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"{name}={value!r} must be a finite number above 0")
    return number


def episode(action_repeat: Any, episode_steps: Any) -> tuple[int, int]:
    """Both as ints, `action_repeat` a divisor of `episode_steps`.

    Raises:
        ValueError: they are not.
    """
    hint = " control steps (an episode without a time limit: 1_000_000)"
    steps = whole("episode_steps", episode_steps, hint=hint)
    try:
        repeat = whole("action_repeat", action_repeat)
    except ValueError:
        repeat = 0
    if not repeat or steps % repeat:
        divisors = [n for n in range(1, 11) if steps % n == 0]
        raise ValueError(
            f"action_repeat={action_repeat} must be a positive divisor of the "
            f"{steps} control steps of an episode, such as {divisors}"
        )
    return repeat, steps


def label(name: str, value: Any) -> str:
    """`value`, which must be a line of text.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError(f"{name}={value!r} must be a line of text, such as 'my-robot'")
    return value


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


def observation(name: str, found: PyTree) -> tuple[tuple[int, ...], str]:
    """Shape and dtype, as `EnvSpec` has them, of what `traced` found.

    Raises:
        ValueError: it is neither a vector of floats nor an image of uint8.
    """
    if not isinstance(found, jax.ShapeDtypeStruct):
        entries = jax.tree.leaves(found)
        remedy = "return the array to observe"
        if entries:
            remedy = (
                "join its entries, for example jnp.concatenate([jnp.ravel(x) for x in "
                "jax.tree.leaves(observation)])"
            )
        raise ValueError(
            f"{name} returns {types(found)}, but must return one array: {remedy}"
        )
    what = f"{name} returns {types(found)}"
    kind, shape = found.dtype, found.shape
    if jnp.issubdtype(kind, jnp.floating) and len(shape) <= 1:
        check_observation(what, shape, "float32")
        return shape, "float32"
    if kind == jnp.uint8 and len(shape) in (2, 3):
        check_observation(what, shape, "uint8")
        return shape, "uint8"
    if jnp.issubdtype(kind, jnp.floating) and len(shape) == 3:
        remedy = "for an image from 0 to 1, (255 * image).astype(jnp.uint8)"
    elif len(shape) > 3:
        remedy = "one image at a time, without a batch axis"
    elif jnp.issubdtype(kind, jnp.integer) or kind == jnp.bool_:
        images = len(shape) in (2, 3)
        remedy = f".astype(jnp.{'uint8' if images else 'float32'})"
    else:
        remedy = "jnp.ravel joins all axes"
    raise ValueError(
        f"{what}, but must return a vector of floats, or an image (height, width, 3) "
        f"of uint8: {remedy}"
    )


def check_observation(what: str, shape: tuple[int, ...], dtype: str) -> None:
    """Raises ValueError, which begins with `what`, unless the networks take it."""
    if dtype not in ("float32", "uint8"):
        raise ValueError(f"{what}: the dtype must be 'float32', or 'uint8' for images")
    if dtype == "float32":
        if len(shape) != 1:
            raise ValueError(
                f"{what}, but must return a vector of floats, (obs,), one axis: "
                "jnp.stack joins numbers, jnp.ravel all axes"
            )
        if not shape[0]:
            raise ValueError(f"{what}, but must have at least one entry")
        return
    if len(shape) == 2:
        remedy = "for grey images, jnp.repeat(image[..., None], 3, axis=-1)"
    elif len(shape) == 3 and shape[0] == CHANNELS != shape[-1]:
        remedy = "the channels come last: jnp.moveaxis(image, 0, -1)"
    elif len(shape) == 3 and shape[-1] == 4:
        remedy = "without the alpha channel, image[..., :3]"
    elif len(shape) == 3 and shape[-1] != CHANNELS:
        remedy = "for grey images, jnp.repeat(image, 3, axis=-1)"
    elif len(shape) == 3:
        near = [
            max(IMAGE_MULTIPLE, IMAGE_MULTIPLE * round(n / IMAGE_MULTIPLE))
            for n in shape[:2]
        ]
        if near == list(shape[:2]):
            return
        remedy = f"the nearest is {(*near, CHANNELS)}, by jax.image.resize"
    else:
        remedy = "one image at a time"
    raise ValueError(
        f"{what}, but images must be (height, width, 3), height and width multiples "
        f"of {IMAGE_MULTIPLE}: {remedy}"
    )


def scalar(name: str, found: PyTree) -> None:
    """Raises ValueError unless `traced` found one real number."""
    _check_scalar(name, found, "float")
    if not (jnp.issubdtype(found.dtype, jnp.number) or found.dtype == jnp.bool_) or (
        jnp.issubdtype(found.dtype, jnp.complexfloating)
    ):
        key = jnp.issubdtype(found.dtype, jax.dtypes.prng_key)
        remedy = "a key is no number" if key else "jnp.real of a complex number"
        raise ValueError(
            f"{name} returns {types(found)}, but must return a scalar float: {remedy}"
        )


def boolean(name: str, found: PyTree) -> None:
    """Raises ValueError unless `traced` found one boolean."""
    _check_scalar(name, found, "boolean")
    if found.dtype != jnp.bool_:
        raise ValueError(
            f"{name} returns {types(found)}, but must return a scalar boolean: "
            "compare, for example done > 0"
        )


def _check_scalar(name: str, found: PyTree, kind: str) -> None:
    must = f"{name} returns {types(found)}, but must return (), a scalar {kind}"
    if not isinstance(found, jax.ShapeDtypeStruct):
        raise ValueError(f"{must}, and nothing beside it")
    if found.shape:
        one = math.prod(found.shape) == 1
        remedy = "jnp.squeeze" if one else "jnp.sum or jnp.all over its entries"
        raise ValueError(f"{must}: {remedy}")
