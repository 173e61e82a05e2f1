"""States of others' making: their numbers as arrays, their types the same in each step.

A simulator's state may hold Python numbers (`{"steps": 0}`), numpy's, or JAX's weak
types, and a step may return a state of other types than it was given. JAX would compile
such a step anew for each type, and refuse it as the body of a loop. So the types are
found once, when the environment is made, and every state is brought to them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from envs import checks

# What may be turned into what: from left to right, but keys only into keys.
_KINDS = (
    jnp.bool_,
    jnp.unsignedinteger,
    jnp.signedinteger,
    jnp.floating,
    jnp.complexfloating,
)


def types_of(
    first: PyTree, step: Callable[[PyTree], PyTree], *, names: tuple[str, str]
) -> PyTree:
    """The types that a state keeps through all steps, as `jax.ShapeDtypeStruct`s.

    They are those at reset. Only a Python number gives way to what the steps make of
    it, as in the sum `0 + 0.5`. A step's booleans and integers may become the floats of
    the reset, but floats never become integers.

    Args:
        first: what the reset returns, found by `checks.traced`.
        step: the types that a step returns, from those it is given.
        names: of the functions that reset and step, for messages.

    Raises:
        ValueError: a step changes the structure of the state, or a leaf's shape or kind
            of number; the leaf is named.
    """
    if first is None:
        raise ValueError(f"{names[0]} returns None, but must return a state")
    wanted = kept(first)
    while True:
        after = step(wanted)
        if jax.tree.structure(after) == jax.tree.structure(wanted):
            widened = jax.tree.map(_widened, first, wanted, after)
            if not same(widened, wanted):
                # What became a float may make others floats in the next step.
                wanted = widened
                continue
        check_structure(wanted, after, names=names)
        return wanted


def kept(state: PyTree) -> PyTree:
    """The types of a state, as `jax.ShapeDtypeStruct`s without weak types."""
    return jax.tree.map(_type, state)


def same(one: PyTree, other: PyTree) -> bool:
    """Whether two states have equal types, leaf by leaf.

    Their containers may be of classes without an `==` of their own, such as
    `jax.tree_util.Partial`, so the pytrees themselves are not compared.
    """
    return jax.tree.leaves(one) == jax.tree.leaves(other)


def brought_to(wanted: PyTree, state: PyTree, *, names: tuple[str, str]) -> PyTree:
    """`state` with exactly the types that `types_of` found.

    Raises:
        ValueError: it has another structure, other shapes or other kinds of numbers.
    """
    state = checks.arrays(names[1], state)
    check_structure(wanted, state, names=names)

    def cast(wanted: jax.ShapeDtypeStruct, leaf: Array) -> Array:
        # With a dtype it also loses its weak type.
        return leaf if _is_key(leaf) else jnp.asarray(leaf, wanted.dtype)

    return jax.tree.map(cast, wanted, state)


def check_structure(wanted: PyTree, found: PyTree, *, names: tuple[str, str]) -> None:
    """Raises ValueError, with the leaf's name, unless `found` can become `wanted`."""
    begins, returns = names
    old, new = (
        {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
        for leaves, _ in map(jax.tree_util.tree_flatten_with_path, (wanted, found))
    )
    differences = [
        f"{path or 'it'} is missing" if path not in new else f"{path or 'it'} is new"
        for path in sorted(old.keys() ^ new.keys())
    ]
    if not differences and jax.tree.structure(wanted) != jax.tree.structure(found):
        differences = ["it has other containers or static fields"]
    if not differences:
        differences = [
            f"{path or 'it'} is {checks.types(_type(new[path]))}, not "
            f"{checks.types(_type(leaf))}{_remedy(leaf, new[path])}"
            for path, leaf in old.items()
            if new[path].shape != leaf.shape or not _fits(new[path], leaf)
        ]
    if differences:
        more = f", and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise ValueError(
            f"{returns} returns {checks.types(jax.tree.map(_type, found))}, but must "
            f"return a state like {begins}'s: {', '.join(differences[:3])}{more}"
        )


def _remedy(wanted: Any, found: Any) -> str:
    if wanted.shape == found.shape and jnp.issubdtype(found.dtype, jnp.floating):
        return " (let it begin as a float)"
    return ""


def _type(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _widened(first: Any, wanted: Any, after: Any) -> jax.ShapeDtypeStruct:
    wider = first.weak_type and not _is_key(after) and _kind(after) > _kind(wanted)
    return jax.ShapeDtypeStruct(wanted.shape, after.dtype) if wider else wanted


def _fits(found: Any, wanted: Any) -> bool:
    if _is_key(found) or _is_key(wanted):
        return found.dtype == wanted.dtype
    return _kind(found) <= _kind(wanted)


def _kind(leaf: Any) -> int:
    return next(i for i, kind in enumerate(_KINDS) if jnp.issubdtype(leaf.dtype, kind))


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
