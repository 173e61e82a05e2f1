"""DreamerV3's optimizer: clip by parameter norm → scale by RMS → momentum → step."""

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from core.networks.layers import Linear
from train.config import OptimizerConfig

Norms = Callable[[Sequence[Array]], Sequence[Array]]
"""The Euclidean norm of each of some arrays."""


def one_by_one(arrays: Sequence[Array]) -> Sequence[Array]:
    """Norms, each by an operation of its own: what a CPU does without copying."""
    return [jnp.linalg.norm(x.ravel()) for x in arrays]


def all_at_once(arrays: Sequence[Array]) -> Sequence[Array]:
    """Norms in a few large operations, for a GPU."""
    width = 1024
    rows = [-(-x.size // width) for x in arrays]
    flat = jnp.concatenate(
        [
            jnp.pad(x.ravel(), (0, count * width - x.size))
            for x, count in zip(arrays, rows, strict=True)
        ]
    )
    squares = jnp.sum(jnp.square(flat.reshape(-1, width)), axis=-1)
    ends = jnp.asarray(list(accumulate(rows)))[None]
    row = jnp.arange(squares.size)[:, None]
    mine = (row < ends) & (row >= ends - jnp.asarray(rows)[None])
    return list(jnp.sqrt(jnp.sum(jnp.where(mine, squares[:, None], 0.0), axis=0)))


def adaptive_clip(
    ratio: float, floor: float = 1e-3, norms: Norms = one_by_one
) -> optax.GradientTransformation:
    """Scale each gradient so that its norm is at most ratio·max(floor, ‖parameter‖).

    Norms are of whole arrays, or of the `parts` of a `Linear` that has some; optax's
    `adaptive_grad_clip` takes them unit by unit.
    """

    def clip(gradient: Array, norm: Array, parameter_norm: Array) -> Array:
        bound = ratio * jnp.maximum(floor, parameter_norm)
        return gradient / jnp.maximum(1.0, norm / bound)

    def update(updates, state, params=None):
        assert params is not None, "adaptive_clip needs the parameters"
        gradients, structure = jax.tree.flatten(_split(updates))
        parameters = jax.tree.leaves(_split(params))
        found = zip(gradients, norms(gradients), norms(parameters), strict=True)
        return _join(structure.unflatten([clip(*each) for each in found])), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def _split(tree: Any) -> Any:
    """The tree with a tuple in place of each array of a layer that has parts."""

    def split(node: Any) -> Any:
        if not in_parts(node):
            return node
        cuts = list(accumulate(node.parts))[:-1]
        return jax.tree.map(lambda x: tuple(jnp.split(x, cuts, axis=-1)), node)

    return jax.tree.map(split, tree, is_leaf=in_parts)


def _join(tree: Any) -> Any:
    """The inverse of `_split`."""
    whole = lambda x: jnp.concatenate(x, axis=-1)
    is_tuple = lambda x: isinstance(x, tuple)
    return jax.tree.map(
        lambda node: (
            jax.tree.map(whole, node, is_leaf=is_tuple) if in_parts(node) else node
        ),
        tree,
        is_leaf=in_parts,
    )


def in_parts(node: Any) -> bool:
    """Whether this is a layer whose groups of outputs are clipped separately."""
    return isinstance(node, Linear) and bool(node.parts)


def make_optimizer(
    config: OptimizerConfig, norms: Norms = one_by_one
) -> optax.GradientTransformation:
    """LaProp: momentum is taken of the gradients after RMS scaling.

    The policy and the value may have learning rates of their own. Nothing else of the
    chain looks beyond one parameter, so this is an optimizer for each of them.
    """
    own = {"policy": config.actor_learning_rate, "value": config.critic_learning_rate}
    rates: dict[Hashable, optax.GradientTransformation] = {
        name: _scale(config, rate) for name, rate in own.items() if rate is not None
    }
    scale = _scale(config, config.learning_rate)
    if rates:
        scale = optax.partition(rates | {_REST: scale}, partial(_groups, [*rates]))
    return optax.chain(
        adaptive_clip(config.agc, config.agc_floor, norms)
        if config.agc
        else optax.identity(),
        optax.scale_by_rms(
            config.beta2, config.eps, eps_in_sqrt=False, bias_correction=True
        ),
        optax.ema(config.beta1, debias=True),
        scale,
    )


_REST = "rest"


def _scale(config: OptimizerConfig, rate: float) -> optax.GradientTransformation:
    warmup = optax.linear_schedule(0.0, rate, config.warmup)
    return optax.scale_by_learning_rate(warmup if config.warmup else rate)


def _groups(own: Sequence[Any], tree: Any) -> Any:
    """The name of the group of every parameter of an `Agent`: the module's, or rest."""
    labels = jax.tree.map(lambda _: _REST, tree)
    for name in own:
        mine = jax.tree.map(lambda _, name=name: name, getattr(tree, name))
        labels = eqx.tree_at(lambda x, name=name: getattr(x, name), labels, mine)
    return labels
