"""Fixed dtypes for the state of a wrapped simulator.

A simulator's state may contain Python numbers (`{"steps": 0}`), numpy arrays or weak
types, and a step may return other dtypes than it was given. JAX would recompile such a
step, and reject it in `lax.scan`. So the dtypes are determined once, at construction,
and every state is cast to them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from envs import checks

# Allowed casts: from left to right; keys only to keys.
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
    """The shapes and dtypes of a state in all steps, as `jax.ShapeDtypeStruct`s.

    They are those at reset, except that a Python number takes the dtype that the steps
    give it (`0 + 0.5`). Booleans and integers of a step are cast to the floats of the
    reset, but floats are never cast to integers.

    Args:
        first: the result of the reset, from `checks.traced`.
        step: a function of the state's types to the types that a step returns.
        names: names of the functions that reset and step, for error messages.

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
                # A leaf that became a float may make others floats in the next step.
                wanted = widened
                continue
        check_structure(wanted, after, names=names)
        return wanted


def kept(state: PyTree) -> PyTree:
    """The types of a state, as `jax.ShapeDtypeStruct`s without weak types."""
    return jax.tree.map(_type, state)


def same(one: PyTree, other: PyTree) -> bool:
    """Whether two states have equal types, leaf by leaf.

    The pytrees are not compared: containers such as `jax.tree_util.Partial` have no
    usable `==`.
    """
    return jax.tree.leaves(one) == jax.tree.leaves(other)


def brought_to(wanted: PyTree, state: PyTree, *, names: tuple[str, str]) -> PyTree:
    """`state`, cast to the types of `types_of`.

    Raises:
        ValueError: another structure, other shapes, or a cast that is not allowed.
    """
    state = checks.arrays(names[1], state)
    check_structure(wanted, state, names=names)

    def cast(wanted: jax.ShapeDtypeStruct, leaf: Array) -> Array:
        # An explicit dtype also removes a weak type.
        return leaf if _is_key(leaf) else jnp.asarray(leaf, wanted.dtype)

    return jax.tree.map(cast, wanted, state)


def check_structure(wanted: PyTree, found: PyTree, *, names: tuple[str, str]) -> None:
    """Raise ValueError, naming the leaf, unless `found` can be cast to `wanted`."""
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
