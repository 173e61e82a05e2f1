"""The penalty by the Gram matrix of the first layer: the same value, much faster.

The first layer is linear, so ``‖J_iᵀ ε_i‖² = y_iᵀ G y_i`` with ``G = W_inᵀ W_in`` and
``y_i`` the gradient at the pre-activation ``a``: the d-dimensional gradient is never
formed. With ``r`` the inverse RMS of ``a``, ``n = s⊙a·r``, ``D = s·r⊙φ'(n)`` and
``b = r²/H``, for every state, row i and probe ε:

    δ_i = κ p_i⊙(ε_i − <p_i, ε_i>)        softmax and unimix
    v_i = W_i δ_i                         second layer
    y_i = D⊙v_i − k_i a                   activation and RMSNorm, k_i = b <D⊙a, v_i>
    x_i = G y_i,   ‖J_iᵀ ε_i‖² = <y_i, x_i>

Only v, y and x have H entries per row. The inner products of RMSNorm are computed in
the C-dimensional space of δ, where they are cheap: <D⊙a, v_i> = <δ_i, W_iᵀ(D⊙a)>, and
f_i = <a, x_i> likewise from G a. One loop over rows (`kernels.gram.rows`) has all large
products; everything else costs as much as one layer.

`docs/penalty.md` lists the formulas of the backward pass, which `_cotangents` computes.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.gram.forward import Forward, Settings, Weights, forward
from kernels.gram.rows import RowProducts, row_products, sum_xv


def _value(fwd: Forward, xv: Array) -> Float[Array, " n"]:
    """Mean over rows and probes of <y, x> = <D⊙v, x> − k f."""
    total = jnp.sum(fwd.gate * xv, axis=-1) - jnp.sum(fwd.k * fwd.f, axis=(0, 1, 3))
    return total / (fwd.delta.shape[0] * fwd.delta.shape[1])


def _cotangents(
    settings: Settings,
    fwd: Forward,
    products: RowProducts,
    epsilon: Array,
    weight: Float[Array, "n 1"] | None,
) -> tuple[Array, Array, Array, Array, Array]:
    """Cotangents of a, gram, scale, w_out, b_out for Σ_n weight_n Σ_{m,i} <y, x>.

    The formulas of `docs/penalty.md`, Backward, line by line. x̄ is `x_bar` here, w is
    `weight` and 2w `two`, W_i `fwd.w`, D `gate`, S `products.xv`, W_iᵀ(D⊙x)
    `products.back`, Ḡ `products.yy`, and Σ k x `kx`; `Forward` names the others.
    """
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
    """Scale the cotangents and give them the weights' shapes and dtypes."""
    a, yy, s, w, b = (scale * x for x in bars)
    return (
        a.astype(weights.a.dtype),
        yy,
        s.astype(weights.scale.dtype),
        w.reshape(-1, w.shape[-1]).T.astype(weights.w_out.dtype),
        b.reshape(-1).astype(weights.b_out.dtype),
    )


def _through_gram(settings: Settings, w_in: Array, yy: Array) -> Array:
    """Cotangent of W_in from that of G: one product, as Σ y yᵀ is symmetric."""
    return settings.dot("dh,hg->dg", w_in, 2.0 * yy).astype(w_in.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def gram_penalty(
    settings: Settings, weights: Weights, epsilon: Float[Array, "m k_or_1 n_or_1 c"]
) -> Float[Array, " n"]:
    """The penalty of each state; probes get no gradient.

    The backward pass recomputes the large products instead of storing arrays with H
    entries per row.
    """
    fwd = forward(settings, weights, epsilon)
    return _value(fwd, sum_xv(settings, fwd))


def _gram_penalty_fwd(settings: Settings, weights: Weights, epsilon: Array):
    return gram_penalty(settings, weights, epsilon), (weights, epsilon)


def _gram_penalty_bwd(settings: Settings, residuals, cotangent: Array):
    weights, epsilon = residuals
    fwd = forward(settings, weights, epsilon)
    weight = cotangent[:, None] / (fwd.delta.shape[0] * fwd.delta.shape[1])
    products = row_products(settings, fwd, weight)
    bars = _cotangents(settings, fwd, products, epsilon, weight)
    a, yy, s, w, b = _finish(weights, bars, 1.0)
    w_in = _through_gram(settings, weights.w_in, yy)
    return Weights(a, w_in, s, w, b), None


gram_penalty.defvjp(_gram_penalty_fwd, _gram_penalty_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def gram_penalty_mean(
    settings: Settings, weights: Weights, epsilon: Float[Array, "m k_or_1 n_or_1 c"]
) -> Float[Array, ""]:
    """Mean of `gram_penalty`, with its gradient computed in the forward pass.

    The mean has a scalar cotangent, a common factor of all gradients. So value and
    gradient share the large products, and no array with H entries per row is stored.
    """
    fwd = forward(settings, weights, epsilon)
    return jnp.mean(_value(fwd, sum_xv(settings, fwd)))


def _gram_penalty_mean_fwd(settings: Settings, weights: Weights, epsilon: Array):
    fwd = forward(settings, weights, epsilon)
    products = row_products(settings, fwd, None)
    value = jnp.mean(_value(fwd, products.xv))
    bars = _cotangents(settings, fwd, products, epsilon, None)
    terms = fwd.delta.shape[0] * fwd.delta.shape[1] * fwd.delta.shape[2]
    return value, (_finish(weights, bars, 1.0 / terms), weights.w_in)


def _gram_penalty_mean_bwd(settings: Settings, residuals, cotangent: Array):
    bars, w_in = residuals
    a, yy, s, w, b = ((cotangent * x).astype(x.dtype) for x in bars)
    return Weights(a, _through_gram(settings, w_in, yy), s, w, b), None


gram_penalty_mean.defvjp(_gram_penalty_mean_fwd, _gram_penalty_mean_bwd)
