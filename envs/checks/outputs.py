"""Checks of the shapes and dtypes of observations, rewards and terminal flags."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from envs.checks.functions import types

IMAGE_MULTIPLE = 16
"""The image networks halve height and width four times."""

CHANNELS = 3


def observation(name: str, found: PyTree) -> tuple[tuple[int, ...], str]:
    """Shape and dtype of an observation, for `EnvSpec`.

    Args:
        found: the result of `traced`.

    Raises:
        ValueError: it is neither a vector of floats nor a uint8 image.
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
    """Raise ValueError, beginning with `what`, unless the networks support it."""
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
