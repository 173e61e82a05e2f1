"""The penalty through the Gram matrix of the first layer: exact and many times faster.

The first layer is linear, so ``‖J_iᵀ ε_i‖² = y_iᵀ G y_i`` with ``G = W_inᵀ W_in`` and
``y_i`` the gradient at the pre-activation ``a``: the D-dimensional gradient is never
formed. With ``r`` the inverse RMS of ``a``, ``n = s⊙a·r``, ``D = s·r⊙φ'(n)`` and
``b = r²/H``, for every state, row i and probe ε:

    δ_i = κ p_i⊙(ε_i − <p_i, ε_i>)        softmax and unimix
    v_i = W_i δ_i                         second layer
    y_i = D⊙v_i − k_i a                   activation and RMSNorm, k_i = b <D⊙a, v_i>
    x_i = G y_i,   ‖J_iᵀ ε_i‖² = <y_i, x_i>

Only v, y and x have H entries a row. The inner products that RMSNorm asks for are taken
in the C-dimensional space of δ, where they are cheap: <D⊙a, v_i> = <δ_i, W_iᵀ(D⊙a)>,
and f_i = <a, x_i> likewise from G a. So one loop over rows (`_row_products`) holds all
the large products, and everything else costs as much as one ordinary layer.

`docs/penalty.md` derives the backward pass.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.head import ACTIVATIONS, RMS_EPS, Activation

CPU_STEP_ENTRIES = 2**18
"""Entries of each array [rows, n, H] in one step of the loop on a CPU: 1 MiB."""


class Settings(NamedTuple):
    """What is static in the penalty's program."""

    classes: int
    unimix: float
    activation: Activation
    operand: jnp.dtype
    """Matrix products round their operands to this and accumulate in `wide`."""

    @property
    def wide(self) -> jnp.dtype:
        return jnp.promote_types(self.operand, jnp.float32)

    def dot(self, spec: str, x: Array, y: Array) -> Array:
        x, y = x.astype(self.operand), y.astype(self.operand)
        if self.operand == self.wide:
            return jnp.einsum(spec, x, y)
        # XLA has no mixed product on a CPU; wide products of the same numbers are it.
        return jax.lax.platform_dependent(
            x,
            y,
            cpu=lambda x, y: jnp.einsum(spec, x.astype(self.wide), y.astype(self.wide)),
            default=lambda x, y: jnp.einsum(
                spec, x, y, preferred_element_type=self.wide
            ),
        )


class Weights(NamedTuple):
    """The differentiable inputs: the pre-activation and the head without its bias."""

    a: Float[Array, "n h"]
    w_in: Float[Array, "d h"]
    scale: Float[Array, " h"]
    w_out: Float[Array, "h kc"]
    b_out: Float[Array, " kc"]


class _Forward(NamedTuple):
    """What the forward pass makes of the weights: all of it small."""

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


class _RowProducts(NamedTuple):
    """Sums over rows and probes of what has H entries a row."""

    xv: Float[Array, "n h"]
    """Σ x⊙v."""
    yy: Float[Array, "h h"]
    """Σ weight · y yᵀ."""
    w_bar: Float[Array, "k c h"]
    """Σ weight · δ (D⊙x)ᵀ."""
    back: Float[Array, "m k n c"]
    """W_iᵀ(D⊙x_i)."""


def _forward(settings: Settings, weights: Weights, epsilon: Array) -> _Forward:
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
    return _Forward(a, r, s, z, slope, curvature, w, p, centred, delta, gram, wa, k, f)


def _derivatives(phi, x: Array) -> tuple[Array, Array, Array]:
    """φ, φ' and φ'' at x, elementwise."""
    one = jnp.ones_like(x)

    def first(y: Array) -> tuple[Array, Array]:
        return jax.jvp(phi, (y,), (one,))

    (value, slope), (_, curvature) = jax.jvp(first, (x,), (one,))
    return value, slope, curvature


def _row_block(rows: int, n: int, h: int) -> int:
    """Rows taken together in the loop over rows: a divisor of their number.

    A CPU wants the arrays of one step to stay in its cache; an accelerator wants all
    rows in one launch. This is a matter of speed alone: the result is the same sum.
    """
    if jax.default_backend() != "cpu":
        return rows
    fitting = max(1, CPU_STEP_ENTRIES // (n * h))
    return max(
        block for block in range(1, rows + 1) if rows % block == 0 and block <= fitting
    )


def _loop(body, carry, xs):
    """`lax.scan`, without the loop when there is one step."""
    if jax.tree.leaves(xs)[0].shape[0] > 1:
        return jax.lax.scan(body, carry, xs)
    carry, ys = body(carry, jax.tree.map(lambda x: x[0], xs))
    return carry, jax.tree.map(lambda y: y[None], ys)


def _xv(settings: Settings, fwd: _Forward) -> Float[Array, "n h"]:
    """Σ x⊙v over rows and probes: all that the value needs."""

    def probe(total, xs):
        def block(total, xs):
            _, _, v, x = _rows(settings, fwd, *xs)
            return total + jnp.sum(x * v, axis=0), None

        return _loop(block, total, _blocks(fwd, *xs))[0], None

    return _loop(probe, jnp.zeros_like(fwd.a), (fwd.delta, fwd.k))[0]


def _row_products(
    settings: Settings, fwd: _Forward, weight: Float[Array, "n 1"] | None
) -> _RowProducts:
    """The large products of value and gradient; `weight` None is 1 for all states."""
    dot, gate = settings.dot, fwd.gate[None]

    def probe(carry, xs):
        def block(carry, xs):
            xv, yy = carry
            delta, w = xs[0], xs[2]
            _, y, v, x = _rows(settings, fwd, *xs)
            wy = y if weight is None else y * weight[None]
            wdelta = delta if weight is None else delta * weight[None]
            gx = gate * x
            carry = xv + jnp.sum(x * v, axis=0), yy + dot("knh,kng->hg", wy, y)
            return carry, (
                dot("knc,knh->kch", wdelta, gx),
                dot("knh,kch->knc", gx, w),
            )

        *sums, w_bar = carry
        sums, (w_part, back) = _loop(block, tuple(sums), _blocks(fwd, *xs))
        w_bar = w_bar + w_part.reshape(w_bar.shape)
        return (*sums, w_bar), back.reshape(xs[0].shape)

    zeros = (
        jnp.zeros_like(fwd.a),
        jnp.zeros_like(fwd.gram),
        jnp.zeros(fwd.w.shape, settings.wide),
    )
    (xv, yy, w_bar), back = _loop(probe, zeros, (fwd.delta, fwd.k))
    return _RowProducts(xv, yy, w_bar, back)


def _blocks(fwd: _Forward, delta: Array, k: Array) -> tuple[Array, Array, Array]:
    block = _row_block(fwd.w.shape[0], *fwd.a.shape)
    return jax.tree.map(lambda x: x.reshape(-1, block, *x.shape[1:]), (delta, k, fwd.w))


def _rows(settings: Settings, fwd: _Forward, delta: Array, k: Array, w: Array):
    v = settings.dot("knc,kch->knh", delta, w)
    y = fwd.gate[None] * v - k * fwd.a[None]
    x = settings.dot("knh,hg->kng", y, fwd.gram)
    return delta, y, v, x


def _value(fwd: _Forward, xv: Array) -> Float[Array, " n"]:
    """Mean over rows and probes of <y, x> = <D⊙v, x> − k f."""
    total = jnp.sum(fwd.gate * xv, axis=-1) - jnp.sum(fwd.k * fwd.f, axis=(0, 1, 3))
    return total / (fwd.delta.shape[0] * fwd.delta.shape[1])


def _cotangents(
    settings: Settings,
    fwd: _Forward,
    products: _RowProducts,
    epsilon: Array,
    weight: Float[Array, "n 1"] | None,
) -> tuple[Array, Array, Array, Array, Array]:
    """Cotangents of a, gram, scale, w_out, b_out for Σ_n weight_n Σ_{m,i} <y, x>."""
    dot = settings.dot
    kappa = 1.0 - settings.unimix
    a, r, s, b, gate = fwd.a, fwd.r, fwd.s, fwd.b, fwd.gate
    two = jnp.full_like(b, 2.0) if weight is None else 2.0 * weight
    fk = jnp.sum(fwd.f * fwd.k, axis=(0, 1))
    fdelta = jnp.sum(fwd.f * fwd.delta, axis=0)
    kdelta = jnp.sum(fwd.k * fwd.delta, axis=0)
    fv = dot("knc,kch->nh", fdelta, fwd.w)
    kv = dot("knc,kch->nh", kdelta, fwd.w)
    ky = gate * kv - jnp.sum(fwd.k**2, axis=(0, 1)) * a
    kx = dot("nh,hg->ng", ky, fwd.gram)

    # Through y: the gate D, the projection k a, and v = W δ.
    gate_bar = two * (products.xv - b * a * fv)
    a_bar = -two * (kx + b * gate * fv)
    r_bar = (jnp.sum(gate_bar * gate, axis=-1, keepdims=True) - 2.0 * two * fk) / r
    s_bar = jnp.sum(gate_bar * r * fwd.slope, axis=0)
    n_bar = gate_bar * s * r * fwd.curvature
    w_bar = 2.0 * products.w_bar - dot(
        "knc,nh->kch", fdelta * (two * b)[None], gate * a
    )
    back = products.back - b[None, None] * fwd.f * fwd.wa
    delta_bar = two[None, None] * back

    # Through the softmax to the logits, then back down the head.
    inner = jnp.sum(delta_bar * fwd.p, axis=-1, keepdims=True)
    p_bar = kappa * jnp.sum(delta_bar * fwd.centred - epsilon * inner, axis=0)
    p = fwd.p[0]
    logits_bar = p * (p_bar - jnp.sum(p * p_bar, axis=-1, keepdims=True))
    w_bar = w_bar + dot("knc,nh->kch", logits_bar, fwd.z)
    b_bar = jnp.sum(logits_bar, axis=1)
    n_bar = n_bar + dot("knc,kch->nh", logits_bar, fwd.w) * fwd.slope
    s_bar = s_bar + jnp.sum(n_bar * a * r, axis=0)
    r_bar = r_bar + jnp.sum(n_bar * s * a, axis=-1, keepdims=True)
    a_bar = a_bar + s * r * n_bar - r_bar * r * b * a
    return a_bar, products.yy, s_bar, w_bar, b_bar


def _finish(weights: Weights, bars: tuple[Array, ...], scale) -> tuple[Array, ...]:
    """Scales the cotangents and lays them out like the weights (gram in its place)."""
    a, yy, s, w, b = (scale * x for x in bars)
    return (
        a.astype(weights.a.dtype),
        yy,
        s.astype(weights.scale.dtype),
        w.reshape(-1, w.shape[-1]).T.astype(weights.w_out.dtype),
        b.reshape(-1).astype(weights.b_out.dtype),
    )


def _through_gram(settings: Settings, w_in: Array, yy: Array) -> Array:
    """Cotangent of W_in from that of G: one product, because Σ y yᵀ is symmetric."""
    return settings.dot("dh,hg->dg", w_in, 2.0 * yy).astype(w_in.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def gram_penalty(
    settings: Settings, weights: Weights, epsilon: Float[Array, "m k_or_1 n_or_1 c"]
) -> Float[Array, " n"]:
    """The penalty of each state; probes get no gradient.

    The backward pass computes the large products again rather than keeping arrays with
    H entries for every row.
    """
    fwd = _forward(settings, weights, epsilon)
    return _value(fwd, _xv(settings, fwd))


def _gram_penalty_fwd(settings: Settings, weights: Weights, epsilon: Array):
    return gram_penalty(settings, weights, epsilon), (weights, epsilon)


def _gram_penalty_bwd(settings: Settings, residuals, cotangent: Array):
    weights, epsilon = residuals
    fwd = _forward(settings, weights, epsilon)
    weight = cotangent[:, None] / (fwd.delta.shape[0] * fwd.delta.shape[1])
    products = _row_products(settings, fwd, weight)
    bars = _cotangents(settings, fwd, products, epsilon, weight)
    a, yy, s, w, b = _finish(weights, bars, 1.0)
    w_in = _through_gram(settings, weights.w_in, yy)
    return Weights(a, w_in, s, w, b), None


gram_penalty.defvjp(_gram_penalty_fwd, _gram_penalty_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def gram_penalty_mean(
    settings: Settings, weights: Weights, epsilon: Float[Array, "m k_or_1 n_or_1 c"]
) -> Float[Array, ""]:
    """Mean of `gram_penalty`, with its gradient made in the forward pass.

    The mean has one scalar cotangent, known up to a factor before the backward pass
    starts: so value and gradient share the large products and nothing with H entries
    for every row outlives them.
    """
    fwd = _forward(settings, weights, epsilon)
    return jnp.mean(_value(fwd, _xv(settings, fwd)))


def _gram_penalty_mean_fwd(settings: Settings, weights: Weights, epsilon: Array):
    fwd = _forward(settings, weights, epsilon)
    products = _row_products(settings, fwd, None)
    value = jnp.mean(_value(fwd, products.xv))
    bars = _cotangents(settings, fwd, products, epsilon, None)
    terms = fwd.delta.shape[0] * fwd.delta.shape[1] * fwd.delta.shape[2]
    return value, (_finish(weights, bars, 1.0 / terms), weights.w_in)


def _gram_penalty_mean_bwd(settings: Settings, residuals, cotangent: Array):
    bars, w_in = residuals
    a, yy, s, w, b = ((cotangent * x).astype(x.dtype) for x in bars)
    return Weights(a, _through_gram(settings, w_in, yy), s, w, b), None


gram_penalty_mean.defvjp(_gram_penalty_mean_fwd, _gram_penalty_mean_bwd)
