"""The array leaves of a pytree as a checkpoint names, describes and stores them."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from train.errors import CheckpointMismatch
from train.run_dir.record import written_by


def array_leaves(tree: PyTree) -> dict[str, Any]:
    """The arrays of a tree by their path, as in `.learner.agent.bias`."""
    found: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(path)
        if isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
            found[name] = leaf
        elif not callable(leaf):
            raise TypeError(
                f"leaf {name} is {leaf!r}, of {type(leaf).__name__}: a checkpoint "
                "holds arrays; put plain numbers and text into the metadata"
            )
    return found


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed PRNG key."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def spec_of(leaf: Any) -> dict[str, Any]:
    """Type and shape as JSON; for a typed key also the name of its generator."""
    spec: dict[str, Any] = {"dtype": str(leaf.dtype), "shape": list(leaf.shape)}
    if is_key(leaf) and isinstance(leaf, jax.Array):
        spec["key"] = str(jax.random.key_impl(leaf))
    return spec


def storable(leaf: Any) -> Any:
    """The leaf as numbers: a typed key becomes its data."""
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def target_of(leaf: Any) -> jax.ShapeDtypeStruct | np.ndarray:
    """What Orbax should read a leaf as, and where to."""
    if isinstance(leaf, np.ndarray):
        return leaf
    # Of a typed key it holds for the data too: that has one more axis, at the end.
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    if is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def empty_like(leaf: Any) -> jax.Array | np.ndarray:
    """An array of the leaf's shape, which holds no elements."""
    if is_key(leaf):
        return jax.random.split(jax.random.key(0), 0).reshape(leaf.shape)
    zeros = np.zeros if isinstance(leaf, np.ndarray) else jnp.zeros
    return zeros(leaf.shape, leaf.dtype)


def check_same(
    directory: pathlib.Path,
    saved: Mapping[str, Any],
    wanted: Mapping[str, Any],
    *,
    partial: bool,
) -> None:
    """Compare leaf by leaf: Orbax itself casts and reshapes silently."""

    def show(spec: Mapping[str, Any] | None) -> str:
        if spec is None:
            return "absent"
        return f"{spec['dtype']}{spec['shape']}".replace(" ", "")

    names = list(wanted) if partial else list({**saved, **wanted})
    differing = [n for n in names if show(saved.get(n)) != show(wanted.get(n))]
    if differing:
        first = differing[0]
        others = f", and {len(differing) - 1} more" if len(differing) > 1 else ""
        remedy = "the flags it was trained with (config.json beside it)"
        kinds = [{_kind(s.get(n)) for s in (saved, wanted)} for n in differing]
        kinds = [pair for pair in kinds if len(pair) == 2]
        if any(all("key<" in kind for kind in pair) for pair in kinds):
            remedy = "the JAX_DEFAULT_PRNG_IMPL it was trained with (starts.jsonl)"
        elif any("64" in kind for pair in kinds for kind in pair):
            remedy = "the JAX_ENABLE_X64 it was trained with (starts.jsonl)"
        raise CheckpointMismatch(
            f"{directory}: does not fit this run: leaf {first} is "
            f"{show(saved.get(first))} in the checkpoint (written by "
            f"{written_by(directory.parents[1])}) and {show(wanted.get(first))} "
            f"here{others}; use {remedy}, or another --logdir"
        )


def _kind(spec: Mapping[str, Any] | None) -> str:
    return "" if spec is None else str(spec["dtype"])


def tree_bytes(tree: PyTree) -> int:
    """Size of a checkpoint's arrays in bytes; the leaves may be shapes only."""
    targets = [target_of(leaf) for leaf in array_leaves(tree).values()]
    return sum(target.size * target.dtype.itemsize for target in targets)
