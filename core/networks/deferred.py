"""A scan that computes its weight gradients in one product after the backward scan.

The gradient of `lax.scan` adds x_tᵀ g_t to the gradient of every weight in every step.
For a wide recurrent network and a small batch, reading and writing these sums takes
longer than the products, and bfloat16 rounds them in every step. Here the backward scan
only stores g_t; one product XᵀG over all steps follows.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

Weights = dict[str, Float[Array, "..."]]
"""Matrices `[inputs, outputs]`; block-diagonal ones `[group, inputs, outputs]`."""

Apply = Callable[[str, Array], Array]
"""`(name, x)` to the product of x with the weight of this name, see `product`."""

Step = Callable[[PyTree, Apply, PyTree, PyTree], tuple[PyTree, PyTree]]
"""`(params, apply, carry, inputs)` to the next carry and the step's outputs.

It must use each weight at most once, through `apply`, and must not close over arrays.
"""


def product(
    x: Float[Array, "*batch inputs"], weight: Float[Array, "*group inputs outputs"]
) -> Float[Array, "*batch outputs"]:
    """x·W, or every group's own product for `x [group, ..., inputs]`."""
    if weight.ndim == 2:
        return x @ weight
    return jnp.einsum("g...i,gio->g...o", x, weight)


def products_kept[**P, T](step: Callable[P, T]) -> Callable[P, T]:
    """`step` of a scan, of which only products are kept for its gradient.

    Norms and activations are computed again in the backward scan. On a CPU that takes
    less time than to write, and read back, every array that they leave in every step.
    """
    kept = jax.checkpoint_policies.dots_saveable
    # XLA cannot merge two scans, so nothing must prevent it from doing so.
    return jax.checkpoint(step, policy=kept, prevent_cse=False)


def plain(weights: Weights) -> Apply:
    """Products with the gradients of JAX."""
    return lambda name, x: product(x, weights[name])


def scan(
    step: Step, params: PyTree, weights: Weights, carry: PyTree, inputs: PyTree
) -> tuple[PyTree, PyTree]:
    """`jax.lax.scan` of `step`, differentiable in every mode."""
    return jax.lax.scan(partial(step, params, plain(weights)), carry, inputs)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def deferred_scan(
    step: Step, params: PyTree, weights: Weights, carry: PyTree, inputs: PyTree
) -> tuple[PyTree, PyTree]:
    """`scan`, with the gradients of `weights` computed after the backward scan.

    Reverse mode only. Without differentiation it is `scan`.
    """
    return scan(step, params, weights, carry, inputs)


def _forward(step, params, weights, carry, inputs):
    # A zero "tap" added to each product: its gradient is the product's cotangent.
    first = jax.tree.map(lambda x: x[0], inputs)
    length = jax.tree.leaves(inputs)[0].shape[0]
    taps = {
        name: jnp.zeros((length, *shape.shape), shape.dtype)
        for name, shape in _product_shapes(step, params, weights, carry, first).items()
    }

    # Transposed once, not in every step of the backward scan.
    transposed = {name: jnp.swapaxes(w, -2, -1) for name, w in weights.items()}

    def run(params, carry, inputs, taps):
        def body(carry, row):
            inputs, taps = row
            seen = {}

            def apply(name: str, x: Array) -> Array:
                seen[name] = x
                return _tapped(x, weights[name], transposed[name], taps[name])

            carry, outputs = step(params, apply, carry, inputs)
            return carry, (outputs, seen)

        carry, (outputs, seen) = jax.lax.scan(
            products_kept(body), carry, (inputs, taps)
        )
        return (carry, outputs), seen

    result, pull, seen = jax.vjp(run, params, carry, inputs, taps, has_aux=True)
    return result, (pull, seen, weights)


def _backward(step, kept, cotangent):
    pull, seen, weights = kept
    params, carry, inputs, taps = pull(cotangent)
    gradients = {
        name: _weight_gradient(seen[name], taps[name], weight)
        for name, weight in weights.items()
    }
    return params, gradients, carry, inputs


deferred_scan.defvjp(_forward, _backward)


def _product_shapes(step, params, weights, carry, inputs) -> dict:
    """Shape and dtype of each product of one step."""
    shapes = {}

    def run(params, weights, carry, inputs):
        def apply(name: str, x: Array) -> Array:
            out = product(x, weights[name])
            shapes[name] = jax.ShapeDtypeStruct(out.shape, out.dtype)
            return out

        return step(params, apply, carry, inputs)

    jax.eval_shape(run, params, weights, carry, inputs)
    return shapes


@jax.custom_vjp
def _tapped(x: Array, weight: Array, transposed: Array, tap: Array) -> Array:
    """x·W + tap, with gradients for x and `tap` but not for the weight."""
    return product(x, weight)


def _tapped_forward(x, weight, transposed, tap):
    return product(x, weight), transposed


def _tapped_backward(transposed, cotangent):
    return product(cotangent, transposed), None, None, cotangent


_tapped.defvjp(_tapped_forward, _tapped_backward)


def _weight_gradient(x: Array, cotangent: Array, weight: Array) -> Array:
    """Σ x_tᵀ g_t over all steps and batch axes, summed in at least float32."""
    # `[time, *batch, size]`, or with groups `[time, group, *batch, size]`.
    groups = (1,) if weight.ndim == 3 else ()
    summed = tuple(axis for axis in range(x.ndim - 1) if axis not in groups)
    total = jax.lax.dot_general(
        x,
        cotangent,
        ((summed, summed), (groups, groups)),
        preferred_element_type=jnp.promote_types(weight.dtype, jnp.float32),
    )
    return total.astype(weight.dtype)
