"""A scan whose backward pass does nearly everything for all steps at once.

Differentiating `lax.scan` keeps dozens of arrays of every step. On a GPU each is
written by a kernel of its own, in every step, and small kernels are most of the time.
Here the forward scan keeps nothing but the carries. With them every step's beginning is
known, and so all products, norms and softmaxes are computed again after the scan, for
all steps in one. The backward scan hands the cotangent of the carry from step to step,
and takes those values from there. The gradients of parameters, weights and inputs
follow after it, again for all steps in one.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from core.networks.deferred import Weights, product
from core.networks.layers import RMS_EPS

CHUNK = 8
"""Steps in one turn of the loop, at most: what they make is stored in one operation."""


class Operations(NamedTuple):
    """What a step leaves to the scan, each call under a name that no other has.

    Attributes:
        product: `(name, x)`: x times the weight of this name, see `deferred.product`.
        norm: `(name, x, scale)`: `RMSNorm`, with a scale of one axis or more.
        softmax: `(name, x)`: over the last axis, in at least float32.
    """

    product: Callable[[str, Array], Array]
    norm: Callable[[str, Array, Array], Array]
    softmax: Callable[[str, Array], Array]


Step = Callable[[PyTree, Operations, PyTree, PyTree], PyTree]
"""`(params, operations, carry, inputs)` to the next carry. It closes over no arrays."""


def computed(weights: Weights) -> Operations:
    """The operations, with the gradients that JAX gives them."""
    return Operations(
        lambda name, x: product(x, weights[name]),
        lambda name, x, scale: _scaled(x, _inverse_root(x), scale),
        lambda name, x: jax.nn.softmax(_wide(x), axis=-1),
    )


def recorded(weights: Weights, found: dict[str, Array]) -> Operations:
    """The same; puts what `recalled` needs into `found`."""

    def keep(name: str, value: Array) -> Array:
        found[name] = value
        return value

    return Operations(
        lambda name, x: keep(name, product(x, weights[name])),
        lambda name, x, scale: _scaled(x, keep(name, _inverse_root(x)), scale),
        lambda name, x: keep(name, jax.nn.softmax(_wide(x), axis=-1)),
    )


def recalled(transposed: Weights, found: dict[str, Array]) -> Operations:
    """The same, computed before: only the carry takes a gradient.

    Args:
        transposed: the weights.
        found: by `recorded`.
    """
    return Operations(
        lambda name, x: _known_product(x, transposed[name], found[name]),
        lambda name, x, scale: _known_norm(x, scale, found[name]),
        lambda name, x: _known_softmax(x, found[name]),
    )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def recomputed_scan(
    step: Step, params: PyTree, weights: Weights, carry: PyTree, inputs: PyTree
) -> PyTree:
    """The carry after every step, stacked. Reverse mode only."""
    operations = computed(weights)

    def body(carry: PyTree, inputs: PyTree) -> tuple[PyTree, PyTree]:
        carry = step(params, operations, carry, inputs)
        return carry, carry

    return chunked_scan(body, carry, inputs)[1]


def _forward(step, params, weights, carry, inputs):
    carries = recomputed_scan(step, params, weights, carry, inputs)
    return carries, (params, weights, carry, inputs, carries)


def _backward(step, kept, cotangent):
    params, weights, carry, inputs, carries = kept
    starts = jax.tree.map(
        lambda first, after: jnp.concatenate([first[None], after[:-1]]), carry, carries
    )
    found = jax.vmap(partial(_found, step, params, weights))(starts, inputs)
    # Transposed here, once, and not in every step.
    transposed = {name: jnp.swapaxes(w, -2, -1) for name, w in weights.items()}

    def body(later, row):
        start, inputs, found, own = row
        known = recalled(transposed, found)
        total = jax.tree.map(jnp.add, later, own)
        _, pull = jax.vjp(lambda carry: step(params, known, carry, inputs), start)
        return *pull(total), total

    rows = starts, inputs, found, cotangent
    nothing = jax.tree.map(jnp.zeros_like, carry)
    first, totals = chunked_scan(body, nothing, rows, reverse=True)

    def every_step(params, weights, inputs):
        one = lambda start, inputs: step(params, computed(weights), start, inputs)
        return jax.vmap(one)(starts, inputs)

    _, pull = jax.vjp(every_step, params, weights, inputs)
    params, weights, inputs = pull(totals)
    return params, weights, first, inputs


recomputed_scan.defvjp(_forward, _backward)


def _found(step, params, weights, carry, inputs) -> dict[str, Array]:
    """What one step's operations find."""
    found = {}
    step(params, recorded(weights, found), carry, inputs)
    return found


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _inverse_root(x: Array) -> Array:
    """1/√(mean x² + 1e-4) of the last axis."""
    mean = jnp.mean(jnp.square(_wide(x)), axis=-1, keepdims=True)
    return jax.lax.rsqrt(mean + RMS_EPS)


def _scaled(x: Array, inverse_root: Array, scale: Array) -> Array:
    scale = scale.reshape((1,) * (x.ndim - scale.ndim) + scale.shape)
    return (_wide(x) * inverse_root * scale.astype(inverse_root.dtype)).astype(x.dtype)


@jax.custom_vjp
def _known_product(x: Array, transposed: Array, value: Array) -> Array:
    return value


_known_product.defvjp(
    lambda x, transposed, value: (value, transposed),
    lambda transposed, cotangent: (product(cotangent, transposed), None, None),
)


@jax.custom_vjp
def _known_norm(x: Array, scale: Array, inverse_root: Array) -> Array:
    return _scaled(x, inverse_root, scale)


def _known_norm_backward(kept, cotangent):
    x, scale, root = kept
    wide, g = _wide(x), _scaled(_wide(cotangent), root, scale)
    # The root's own derivative with respect to x is −root³·x/size.
    share = jnp.mean(g * wide, axis=-1, keepdims=True)
    return (g - jnp.square(root) * share * wide).astype(x.dtype), None, None


_known_norm.defvjp(
    lambda x, scale, root: (_scaled(x, root, scale), (x, scale, root)),
    _known_norm_backward,
)


@jax.custom_vjp
def _known_softmax(x: Array, probs: Array) -> Array:
    return probs


def _known_softmax_backward(kept, g):
    x, probs = kept
    # Written out, the sum over a few classes needs no kernel of its own.
    shares = g * probs
    mean = sum(shares[..., i, None] for i in range(shares.shape[-1]))
    return (probs * (g - mean)).astype(x.dtype), None


_known_softmax.defvjp(lambda x, probs: (probs, (x, probs)), _known_softmax_backward)


def chunked_scan(
    body: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]],
    carry: PyTree,
    rows: PyTree,
    *,
    reverse: bool = False,
) -> tuple[PyTree, PyTree]:
    """`jax.lax.scan` of up to `CHUNK` steps a turn, whose outputs are stored together.

    Its `unroll` stores the outputs of every step by themselves.
    """
    length = jax.tree.leaves(rows)[0].shape[0]
    size = max(x for x in range(1, CHUNK + 1) if length % x == 0)

    def several(carry: PyTree, rows: PyTree) -> tuple[PyTree, PyTree]:
        outputs = {}
        for i in sorted(range(size), reverse=reverse):
            row = jax.tree.map(lambda x, i=i: x[i], rows)
            if not reverse:
                # Cut out before it is computed with: XLA makes one kernel of a sum and
                # its norm, but not of a cut, a sum and its norm.
                row = jax.lax.optimization_barrier(row)
            carry, outputs[i] = body(carry, row)
        stacked = jax.tree.map(
            lambda *xs: jnp.stack(xs), *(outputs[i] for i in range(size))
        )
        return carry, stacked

    turns = jax.tree.map(lambda x: x.reshape(length // size, size, *x.shape[1:]), rows)
    carry, outputs = jax.lax.scan(several, carry, turns, reverse=reverse)
    return carry, jax.tree.map(lambda x: x.reshape(length, *x.shape[2:]), outputs)
