"""The form of `core.rssm.RSSM.observe` and `imagine` that takes few kernels.

For a GPU, on which a small operation costs as much as a large one. The equations are
those of `core.rssm`, which defines them. What differs from `core.loops.block_gru`:

* h and z are carried side by side, as the heads want them, so that their embeddings
  are one product with a block-diagonal matrix, and one norm.
* Inside the loop there is only what the next state depends on. The posterior's logits
  are computed once more after it, for all steps in one; they differ from those that z
  was drawn from by rounding alone.
* The backward loop is that of `core.networks.recomputed`.
"""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from core.latents import Latents
from core.loops.block_gru import action_term_of, recurrent_weights
from core.networks.deferred import Weights
from core.networks.layers import add_bias
from core.networks.recomputed import (
    Operations,
    chunked_scan,
    computed,
    recomputed_scan,
)
from core.rssm import RSSM
from core.states import (
    Observed,
    ObserveInputs,
    State,
    check_sequence,
    check_uniforms,
    shifted,
)
from kernels.sharding import divided


class _Vectors(eqx.Module):
    """What a step takes of an RSSM besides matrices."""

    embed_bias: Float[Array, " two_hidden"]
    embed_scale: Float[Array, "2 hidden"]
    mix_scale: Float[Array, " deter"]
    gates_bias: Float[Array, "blocks three_sizes"]
    posterior_scale: Float[Array, " hidden"]
    posterior_bias: Float[Array, " K_P"]
    categoricals: int = eqx.field(static=True)
    latents: Latents = eqx.field(static=True)

    @classmethod
    def of(cls, rssm: RSSM) -> "_Vectors":
        layers = rssm.deter_in, rssm.stoch_in
        return cls(
            jnp.concatenate([layer.linear.bias for layer in layers]),
            jnp.stack([layer.norm.scale for layer in layers]),
            rssm.mix_norm.scale,
            rssm.gates.bias.reshape(rssm.blocks, -1),
            rssm.posterior_in.norm.scale,
            rssm.posterior_out.bias,
            rssm.categoricals,
            rssm.latents,
        )


def observe(
    rssm: RSSM, state: State, inputs: ObserveInputs, *, key: PRNGKeyArray
) -> tuple[State, Observed]:
    """The same as `RSSM.observe`. Reverse mode only.

    Devices that share the work must divide the (one) batch axis evenly.

    Raises:
        ValueError: the shapes do not fit together, or `is_first` is not boolean.
    """
    check_sequence(state, inputs, rssm.sizes)
    embeds, actions, is_first, errors = inputs
    weights, from_action = _weights(rssm)
    keep = ~is_first
    actions = jnp.where(keep[..., None], actions, 0.0).astype(state.deter.dtype)
    first = rssm.posterior_in.linear
    embed_terms = add_bias(embeds @ first.weight[rssm.deter :], first.bias)
    weights |= {
        "posterior_in": first.weight[: rssm.deter],
        "posterior_out": rssm.posterior_out.weight,
    }
    rows = (
        action_term_of(rssm, from_action, actions),
        embed_terms,
        jax.random.uniform(key, (*is_first.shape, rssm.categoricals)),
        keep,
        shifted(errors),
    )
    # Gradients of what devices share are added up after the loop, not in it.
    run = divided(partial(recomputed_scan, _observe_step), (None, None, 0, 1), 1)
    features = run(_Vectors.of(rssm), weights, state.features, rows)
    states = rssm.state(features)
    preactivation = states.deter @ weights["posterior_in"] + embed_terms
    hidden = rssm.posterior_in.activate(preactivation)
    logits = rssm.split(rssm.posterior_out(hidden))
    observed = Observed(states, logits, preactivation).plus(errors)
    last = jax.tree.map(lambda x: x[-1], observed.states)
    return last, observed


def imagine[Inputs, Seen](
    rssm: RSSM,
    state: State,
    act: Callable[[State, Inputs], tuple[Float[Array, "*batch action"], Seen]],
    inputs: Inputs,
    *,
    uniforms: Float[Array, "time *batch K"],
) -> tuple[State, Seen]:
    """The same as `RSSM.imagine`.

    Raises:
        ValueError: `uniforms` does not fit `state`.
    """
    check_uniforms(state, uniforms)
    weights, from_action = _weights(rssm)
    vectors, operations = _Vectors.of(rssm), computed(weights)

    def step(features: Array, row: tuple[Inputs, Array]) -> tuple[Array, Seen]:
        inputs, uniform = row
        action, seen = act(rssm.state(features), inputs)
        term = action_term_of(rssm, from_action, action.astype(features.dtype))
        h = _recurrent(vectors, operations, features, term)
        z = _sample(vectors, operations, rssm.prior_logits(h), uniform)
        return jnp.concatenate([h, z], axis=-1), seen

    last, seen = chunked_scan(step, state.features, (inputs, uniforms))
    return rssm.state(last), seen


def _weights(rssm: RSSM) -> tuple[Weights, Float[Array, "hidden deter"]]:
    """The matrices of the recurrent map, and the action's share of the mixing layer."""
    weights, from_action = recurrent_weights(rssm)
    embed = jax.scipy.linalg.block_diag(
        weights.pop("deter_in"), weights.pop("stoch_in")
    )
    return weights | {"embed": embed}, from_action


def _observe_step(
    vectors: _Vectors, do: Operations, features: Array, inputs: tuple
) -> Array:
    """h_t and z_t, side by side, from h_{t−1} and z_{t−1}: `RSSM.observe_step`."""
    action_term, embed_term, uniform, keep, error = inputs
    if error is not None:  # of z alone
        flat = error.reshape(*error.shape[:-2], -1)
        features += jnp.pad(flat, [(0, 0)] * (flat.ndim - 1) + [(_deter(vectors), 0)])
    start = jnp.where(keep[..., None], features, 0.0)
    h = _recurrent(vectors, do, start, action_term)
    preactivation = do.product("posterior_in", h) + embed_term
    normed = do.norm("posterior_norm", preactivation, vectors.posterior_scale)
    flat = do.product("posterior_out", jax.nn.silu(normed))
    flat = add_bias(flat, vectors.posterior_bias)
    logits = flat.reshape(*flat.shape[:-1], vectors.categoricals, -1)
    return jnp.concatenate([h, _sample(vectors, do, logits, uniform)], axis=-1)


def _recurrent(
    vectors: _Vectors, do: Operations, features: Array, action_term: Array
) -> Array:
    """h' = f(h, z, a), the equations of `RSSM.recurrent`."""
    deter = _deter(vectors)
    blocks = vectors.gates_bias.shape[0]
    h = features[..., :deter]
    split = lambda x: x.reshape(*x.shape[:-1], blocks, -1)
    join = lambda x: x.reshape(*x.shape[:-2], -1)
    x = add_bias(do.product("embed", features), vectors.embed_bias)
    x = x.reshape(*x.shape[:-1], 2, -1)
    x = join(jax.nn.silu(do.norm("embed_norm", x, vectors.embed_scale)))
    m = join(_blockwise(do, "mix_deter", split(h)))
    m = m + do.product("mix_embeddings", x) + action_term
    m = jax.nn.silu(do.norm("mix_norm", m, vectors.mix_scale))
    gates = _blockwise(do, "gates", split(m))
    bias = vectors.gates_bias
    gates = add_bias(gates, bias.reshape((1,) * (gates.ndim - 2) + bias.shape))
    r, c, u = jnp.split(gates, 3, axis=-1)
    c = jnp.tanh(jax.nn.sigmoid(r) * c)
    u = jax.nn.sigmoid(u - 1.0)
    return join(u * c + (1.0 - u) * split(h))


def _deter(vectors: _Vectors) -> int:
    return vectors.mix_scale.size


def _blockwise(do: Operations, name: str, x: Array) -> Array:
    """A product whose groups stand second to last, in x and in the result."""
    return jnp.moveaxis(do.product(name, jnp.moveaxis(x, -2, 0)), 0, -2)


def _sample(vectors: _Vectors, do: Operations, logits: Array, uniform: Array) -> Array:
    """The flattened z."""
    z = vectors.latents.sample_in_few_kernels(logits, uniform, partial(do.softmax, "z"))
    return z.reshape(*z.shape[:-2], -1)


__all__ = ["imagine", "observe"]
