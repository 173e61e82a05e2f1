"""The penalty of a head with two hidden layers, as `kernels.gram.penalty` of one.

    a₁ = u W_in + b_in,    x₁ = φ(RMSNorm(a₁))
    a₂ = x₁ W_mid + b_mid, x₂ = φ(RMSNorm(a₂))
    q_i = (1 − unimix)·softmax(row i of x₂ W_out + b_out) + unimix/C

The gradient of row i at u, for a probe ε, goes back through both layers, and the Gram
matrix G of the first one's weight gives its norm:

    v = W_i δ_i,  y₂ = D₂⊙v − k₂ a₂,  y₁ = D₁⊙(W_mid y₂) − k₁ a₁
    ‖J_iᵀ ε_i‖² = <y₁, G y₁>

with δ, D, b and k as there. Of a row's C classes only its own columns of W_out are
multiplied; a vector-Jacobian product of the whole head multiplies all K·C. One loop
over rows has all products with H entries per row, and their gradients: its arrays fit
into a cache, and none of that size is stored.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from kernels.gram.forward import Settings
from kernels.gram.rows import row_block
from kernels.head import ACTIVATIONS, RMS_EPS, Activation
from kernels.probes import ProbeKind, sample_probes


class TwoLayerHead(NamedTuple):
    """Weights of ``Linear -> RMSNorm -> activation``, twice, and of ``-> Linear``.

    The bias of the first layer is in the pre-activation, and not here. The columns of
    `w_out` are K rows of C classes each, classes fastest.
    """

    w_in: Float[Array, "d h"]
    scale_in: Float[Array, " h"]
    w_mid: Float[Array, "h g"]
    b_mid: Float[Array, " g"]
    scale_mid: Float[Array, " g"]
    w_out: Float[Array, "g kc"]
    b_out: Float[Array, " kc"]


class _Layer(NamedTuple):
    """What the gradient of one hidden layer takes, at every state."""

    a: Float[Array, "n h"]
    gate: Float[Array, "n h"]
    """D = s·r⊙φ'(n), with n = s⊙a·r and r the inverse RMS of a."""
    b: Float[Array, "n 1"]
    """r²/H."""

    def pull(self, v: Float[Array, "k n h"]) -> Float[Array, "k n h"]:
        """The gradient at a, from that of the layer's output: D⊙v − b <D⊙a, v> a."""
        k = jnp.sum((self.gate * self.a)[None] * v, axis=-1, keepdims=True)
        return self.gate[None] * v - (self.b[None] * k) * self.a[None]


class _Shared(NamedTuple):
    """What all rows share."""

    first: _Layer
    second: _Layer
    w_mid: Float[Array, "h g"]
    gram: Float[Array, "h h"]


class _Rows(NamedTuple):
    """What belongs to each row, rows first."""

    w: Float[Array, "k c g"]
    delta: Float[Array, "k m n c"]


def two_layer_penalty_mean(
    preactivation: Float[Array, "n h"],
    head: TwoLayerHead,
    key: PRNGKeyArray | None,
    *,
    classes: int,
    unimix: float = 0.01,
    activation: Activation = "silu",
    probes: int | None = None,
    probe_kind: ProbeKind = "rademacher",
) -> Float[Array, ""]:
    """Mean penalty of a head with two hidden layers, over n states u.

    ``(1/(K n)) Σ ‖J_{q_i}(u)ᵀ ε_i‖²`` over rows and states, averaged over probes (GPLD
    eq. 5): the mean of `row_probe_penalty` of this head with the same key, up to
    rounding. The gradient is computed together with the value and only scaled in the
    backward pass.

    **Arguments:**

    - `preactivation`: a₁ = ``u @ w_in + b_in``, ``[n, h]``, floating point; its
        cotangent is that of the caller's own layer, whose weight also gets the gradient
        of the Jacobian's first factor here. Operands of matrix products are rounded to
        its dtype; sums are in float32, or float64.
    - `head`: the weights; each gradient has the dtype of its weight.
    - the others: see `kernels.jacobian_penalty`.

    **Returns:** a nonnegative number, dimensionless, float32 or float64.

    **Raises:** ValueError for shapes that do not fit, probes out of range, or an
    unknown name.
    """
    n, h = preactivation.shape
    g, outputs = head.w_out.shape
    wanted = {"w_mid": (h, g), "scale_in": (h,), "b_mid": (g,), "scale_mid": (g,)}
    wanted |= {"b_out": (outputs,), "w_in": (head.w_in.shape[0], h)}
    for name, shape in wanted.items():
        if getattr(head, name).shape != shape:
            raise ValueError(
                f"head.{name} has shape {getattr(head, name).shape}, but preactivation "
                f"{(n, h)} and w_out {(g, outputs)} ask for {shape}"
            )
    if classes < 2 or outputs % classes:
        raise ValueError(
            f"classes={classes} with head.w_out {(g, outputs)}: classes must be at "
            f"least 2 and divide the {outputs} outputs into whole rows"
        )
    if activation not in ACTIVATIONS:
        names = ", ".join(ACTIVATIONS)
        raise ValueError(f"activation={activation!r}: must be one of {names}")
    settings = Settings(classes, unimix, activation, preactivation.dtype)
    epsilon = sample_probes(
        key,
        kind=probe_kind,
        probes=probes,
        rows=outputs // classes,
        n=n,
        classes=classes,
        dtype=settings.wide,
    )
    return _mean(settings, (head, preactivation), epsilon)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mean(settings: Settings, inputs: tuple[TwoLayerHead, Array], epsilon: Array):
    shared, rows = _forward(settings, inputs, epsilon)

    def block(total: Array, rows: _Rows) -> tuple[Array, None]:
        return total + _squares(settings, shared, rows), None

    blocks = _blocks(rows)
    total, _ = jax.lax.scan(block, jnp.zeros((), settings.wide), blocks)
    return total / _terms(rows)


def _mean_fwd(settings: Settings, inputs: tuple[TwoLayerHead, Array], epsilon: Array):
    (shared, rows), pull = jax.vjp(
        lambda inputs: _forward(settings, inputs, epsilon), inputs
    )
    of_block = jax.value_and_grad(partial(_squares, settings), argnums=(0, 1))

    def block(sums: tuple[Array, _Shared], rows: _Rows):
        value, (shared_bar, rows_bar) = of_block(shared, rows)
        return jax.tree.map(jnp.add, sums, (value, shared_bar)), rows_bar

    zeros = jnp.zeros((), settings.wide), jax.tree.map(jnp.zeros_like, shared)
    (total, shared_bar), rows_bar = jax.lax.scan(block, zeros, _blocks(rows))
    rows_bar = jax.tree.map(lambda bar, x: bar.reshape(x.shape), rows_bar, rows)
    (bars,) = pull((shared_bar, rows_bar))
    terms = _terms(rows)
    return total / terms, jax.tree.map(lambda x: x / terms, bars)


def _mean_bwd(settings: Settings, bars: tuple[TwoLayerHead, Array], cotangent: Array):
    return jax.tree.map(lambda x: (cotangent * x).astype(x.dtype), bars), None


_mean.defvjp(_mean_fwd, _mean_bwd)


def _forward(
    settings: Settings, inputs: tuple[TwoLayerHead, Array], epsilon: Array
) -> tuple[_Shared, _Rows]:
    """The head at every state, as far as all rows share it, and δ of each row."""
    head, a = inputs
    wide, dot = settings.wide, settings.dot
    first, x = _layer(settings, a, head.scale_in)
    a = dot("nh,hg->ng", x, head.w_mid) + head.b_mid.astype(wide)[None]
    second, x = _layer(settings, a, head.scale_mid)
    w = head.w_out.astype(wide).T.reshape(-1, settings.classes, x.shape[-1])
    bias = head.b_out.astype(wide).reshape(-1, 1, settings.classes)
    p = jax.nn.softmax(dot("nh,kch->knc", x, w) + bias)[None]
    centred = epsilon - jnp.sum(p * epsilon, axis=-1, keepdims=True)
    delta = (1.0 - settings.unimix) * p * centred
    gram = dot("dh,dg->hg", head.w_in, head.w_in)
    shared = _Shared(first, second, head.w_mid.astype(wide), gram)
    return shared, _Rows(w, jnp.moveaxis(delta, 1, 0))


def _layer(
    settings: Settings, a: Float[Array, "n h"], scale: Float[Array, " h"]
) -> tuple[_Layer, Float[Array, "n h"]]:
    """RMSNorm and activation: what their gradient takes, and their output."""
    a, s = a.astype(settings.wide), scale.astype(settings.wide)[None]
    r = jax.lax.rsqrt(jnp.mean(a * a, axis=-1, keepdims=True) + RMS_EPS)
    normed = s * a * r
    x, slope = jax.jvp(
        ACTIVATIONS[settings.activation], (normed,), (jnp.ones_like(normed),)
    )
    return _Layer(a, s * r * slope, r**2 / a.shape[-1]), x


def _squares(settings: Settings, shared: _Shared, rows: _Rows) -> Float[Array, ""]:
    """Σ ‖J_iᵀ ε‖² over some rows, all their probes, and all states."""
    dot = settings.dot
    k, m, n, _ = rows.delta.shape
    v = dot("kmnc,kch->kmnh", rows.delta, rows.w).reshape(k * m, n, -1)
    v = dot("kng,hg->knh", shared.second.pull(v), shared.w_mid)
    y = shared.first.pull(v)
    return jnp.sum(y * dot("knh,hg->kng", y, shared.gram))


def _blocks(rows: _Rows) -> _Rows:
    """As many rows in one step of the loop as fit."""
    k, m, n, _ = rows.delta.shape
    block = row_block(k, m * n, rows.w.shape[-1])
    return jax.tree.map(lambda x: x.reshape(-1, block, *x.shape[1:]), rows)


def _terms(rows: _Rows) -> int:
    k, m, n, _ = rows.delta.shape
    return k * m * n
