"""The forward pass of the head, as the penalty needs it.

`kernels.gram.penalty` defines the symbols. Everything here costs as much as one layer
of the head; no array has H entries per row.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.head import ACTIVATIONS, RMS_EPS, Activation


class Settings(NamedTuple):
    """Static arguments of the penalty."""

    classes: int
    unimix: float
    activation: Activation
    operand: jnp.dtype
    """Operands of matrix products are rounded to this dtype; sums are in `wide`."""
    kernel: bool = False
    """Use the fused GPU kernel for the products with H entries per row."""
    interpret: bool = False
    """Run the kernel in Pallas' interpreter."""

    @property
    def wide(self) -> jnp.dtype:
        return jnp.promote_types(self.operand, jnp.float32)

    def dot(self, spec: str, x: Array, y: Array) -> Array:
        x, y = x.astype(self.operand), y.astype(self.operand)
        if self.operand == self.wide:
            return jnp.einsum(spec, x, y)
        # XLA has no mixed-precision product on a CPU; a wide product is equal to it.
        return jax.lax.platform_dependent(
            x,
            y,
            cpu=lambda x, y: jnp.einsum(spec, x.astype(self.wide), y.astype(self.wide)),
            default=lambda x, y: jnp.einsum(
                spec, x, y, preferred_element_type=self.wide
            ),
        )


class Weights(NamedTuple):
    """The differentiable inputs: the pre-activation, and the head without `b_in`."""

    a: Float[Array, "n h"]
    w_in: Float[Array, "d h"]
    scale: Float[Array, " h"]
    w_out: Float[Array, "h kc"]
    b_out: Float[Array, " kc"]


class Forward(NamedTuple):
    """Results of the forward pass, in the symbols of `kernels.gram.penalty`.

    The others: `z` = φ(n), `slope` = φ'(n), `curvature` = φ''(n), `gate` = D,
    `centred` = ε − <p, ε>, `wa` = W_iᵀ(D⊙a), `gram` = G, and f = <a, x>.
    """

    a: Float[Array, "n h"]
    r: Float[Array, "n 1"]
    s: Float[Array, "1 h"]
    z: Float[Array, "n h"]
    slope: Float[Array, "n h"]
    curvature: Float[Array, "n h"]
    w: Float[Array, "k c h"]
    p: Float[Array, "1 k n c"]
    centred: Float[Array, "m k n c"]
    delta: Float[Array, "m k n c"]
    gram: Float[Array, "h h"]
    wa: Float[Array, "1 k n c"]
    k: Float[Array, "m k n 1"]
    f: Float[Array, "m k n 1"]

    @property
    def gate(self) -> Array:
        return self.s * self.r * self.slope

    @property
    def b(self) -> Array:
        return self.r**2 / self.a.shape[-1]


def forward(settings: Settings, weights: Weights, epsilon: Array) -> Forward:
    """The quantities that value and gradient need, from the pre-activation on."""
    wide, dot = settings.wide, settings.dot
    kappa = 1.0 - settings.unimix
    a = weights.a.astype(wide)
    s = weights.scale.astype(wide)[None]
    h = a.shape[-1]
    r = jax.lax.rsqrt(jnp.mean(a * a, axis=-1, keepdims=True) + RMS_EPS)
    z, slope, curvature = _derivatives(ACTIVATIONS[settings.activation], s * a * r)
    gate = s * r * slope
    b = r**2 / h

    w = weights.w_out.astype(settings.operand).T.reshape(-1, settings.classes, h)
    bias = weights.b_out.astype(wide).reshape(-1, 1, settings.classes)
    p = jax.nn.softmax(dot("nh,kch->knc", z, w) + bias)[None]
    centred = epsilon - jnp.sum(p * epsilon, axis=-1, keepdims=True)
    delta = kappa * p * centred

    gram = dot("dh,dg->hg", weights.w_in, weights.w_in)
    ga = dot("nh,hg->ng", a, gram)
    wa = dot("nh,kch->knc", gate * a, w)[None]
    wga = dot("nh,kch->knc", gate * ga, w)[None]
    k = b[None, None] * jnp.sum(delta * wa, axis=-1, keepdims=True)
    aga = jnp.sum(a * ga, axis=-1, keepdims=True)[None, None]
    f = jnp.sum(delta * wga, axis=-1, keepdims=True) - k * aga
    return Forward(a, r, s, z, slope, curvature, w, p, centred, delta, gram, wa, k, f)


def _derivatives(phi, x: Array) -> tuple[Array, Array, Array]:
    """φ, φ' and φ'' at x, elementwise."""
    one = jnp.ones_like(x)

    def first(y: Array) -> tuple[Array, Array]:
        return jax.jvp(phi, (y,), (one,))

    (value, slope), (_, curvature) = jax.jvp(first, (x,), (one,))
    return value, slope, curvature
