"""The fast form of `core.rssm.RSSM.observe` and `imagine`.

`core.rssm` defines the equations. Three things differ here:

* Terms that do not depend on the carried state are computed before the scan, for all
  steps at once: those of the action in the recurrent map and of e in the posterior.
* All blocks of the mixing layer read the same embeddings x, so that this part of the
  block-diagonal weight is one dense matrix, sliced outside the scan.
* Between the two block layers the block axis comes first, `[block, *batch, size]`, so
  that the batched matrix products use contiguous memory, which XLA needs on a CPU.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from core.networks.deferred import Apply, Weights, deferred_scan, plain, scan
from core.networks.layers import RMS_EPS, add_bias
from core.rssm import RSSM, clip_action
from core.states import (
    Observed,
    ObserveInputs,
    State,
    check_sequence,
    check_uniforms,
    shifted,
)
from kernels.sharding import divided


class Carry(NamedTuple):
    """A state, and its h also as `[block, *batch, size]`.

    If the scan carried h only, XLA would fuse the gates into the transposition and
    compute them one element at a time.
    """

    state: State
    h_blocks: Float[Array, "block *batch size"]

    @classmethod
    def of(cls, rssm: RSSM, state: State) -> "Carry":
        """The carry of a state."""
        return cls(state, _to_blocks(rssm, state.deter))

    def masked(self, keep: Bool[Array, "*batch"]) -> "Carry":
        """Zero wherever `keep` is false."""
        h_blocks = jnp.where(keep[None, ..., None], self.h_blocks, 0.0)
        return Carry(self.state.masked(keep), h_blocks)


_CARRY_AXES = Carry(State(*cast(tuple, (0, 0))), cast(Array, 1))
"""The batch axis of each array."""


def observe(
    rssm: RSSM, state: State, inputs: ObserveInputs, *, key: PRNGKeyArray
) -> tuple[State, Observed]:
    """The same as `RSSM.observe`.

    Raises:
        ValueError: the shapes do not fit together, or `is_first` is not boolean.
    """
    run = partial(scan, _observe_step)
    return _observe(run, rssm, state, inputs, key)


def observe_deferred(
    rssm: RSSM, state: State, inputs: ObserveInputs, *, key: PRNGKeyArray
) -> tuple[State, Observed]:
    """`observe` with the weights' gradients in one product after the backward scan.

    Faster, but for reverse mode only (see `core.networks.deferred`). The number of
    devices must divide the single batch axis.
    """
    # Gradients are summed over devices after the scan, not inside it.
    run = divided(
        partial(deferred_scan, _observe_step),
        (None, None, _CARRY_AXES, 1),
        (_CARRY_AXES, 1),
    )
    return _observe(run, rssm, state, inputs, key)


def _observe(
    run: Callable,
    rssm: RSSM,
    state: State,
    inputs: ObserveInputs,
    key: PRNGKeyArray,
) -> tuple[State, Observed]:
    check_sequence(state, inputs, rssm.sizes)
    embeds, actions, is_first, errors = inputs
    weights, from_action = recurrent_weights(rssm)
    keep = ~is_first
    actions = jnp.where(keep[..., None], actions, 0.0).astype(state.deter.dtype)
    action_terms = action_term_of(rssm, from_action, actions)
    first = rssm.posterior_in.linear
    embed_terms = add_bias(embeds @ first.weight[rssm.deter :], first.bias)
    uniforms = jax.random.uniform(key, (*is_first.shape, rssm.categoricals))
    weights |= {
        "posterior_in": first.weight[: rssm.deter],
        "posterior_out": rssm.posterior_out.weight,
    }
    # The scan carries the z that was drawn; its error belongs to the next step.
    rows = (action_terms, embed_terms, uniforms, keep, shifted(errors))
    vectors = eqx.filter(rssm, lambda x: eqx.is_array(x) and x.ndim == 1)
    last, observed = run(vectors, weights, Carry.of(rssm, state), rows)
    last_error = None if errors is None else errors[-1]
    return last.state.plus(last_error), observed.plus(errors)


def observe_step(
    rssm: RSSM,
    state: State,
    embed: Float[Array, "*batch embed"],
    action: Float[Array, "*batch action"],
    is_first: Bool[Array, "*batch"],
    *,
    key: PRNGKeyArray,
) -> State:
    """The same as `RSSM.observe_step`."""
    one_step = ObserveInputs(embed[None], action[None], is_first[None])
    return observe(rssm, state, one_step, key=key)[0]


def _observe_step(
    rssm: RSSM, apply: Apply, carry: Carry, inputs: tuple
) -> tuple[Carry, Observed]:
    """`RSSM.observe_step`: h, then z from the posterior's logits.

    `rssm` holds only the vectors, and `apply` multiplies by matrices.
    """
    action_term, embed_term, uniform, keep, error = inputs
    carry = carry._replace(state=carry.state.plus(error)).masked(keep)
    h, h_blocks = _recurrent(rssm, apply, carry, action_term)
    preactivation = apply("posterior_in", h) + embed_term
    hidden = rssm.posterior_in.activate(preactivation)
    flat = add_bias(apply("posterior_out", hidden), rssm.posterior_out.bias)
    logits = rssm.split(flat)
    state = State(h, rssm.sample(logits, uniform))
    return Carry(state, h_blocks), Observed(state, logits, preactivation)


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
    weights, from_action = recurrent_weights(rssm)

    def step(carry: Carry, each: tuple[Inputs, Array]) -> tuple[Carry, Seen]:
        inputs, uniform = each
        action, seen = act(carry.state, inputs)
        action = action.astype(carry.state.deter.dtype)
        term = action_term_of(rssm, from_action, action)
        h, h_blocks = _recurrent(rssm, plain(weights), carry, term)
        state = State(h, rssm.sample(rssm.prior_logits(h), uniform))
        return Carry(state, h_blocks), seen

    last, seen = jax.lax.scan(step, Carry.of(rssm, state), (inputs, uniforms))
    return last.state, seen


def recurrent(
    rssm: RSSM,
    state: State,
    action: Float[Array, "*batch action"],
    *,
    kept: Float[Array, "*batch deter"] | None = None,
) -> Float[Array, "*batch deter"]:
    """The same as `RSSM.recurrent`."""
    weights, from_action = recurrent_weights(rssm)
    term = action_term_of(rssm, from_action, action)
    carry = Carry.of(rssm, state)
    kept_blocks = None if kept is None else _to_blocks(rssm, kept)
    return _recurrent(rssm, plain(weights), carry, term, kept_blocks)[0]


def _recurrent(
    rssm: RSSM,
    apply: Apply,
    carry: Carry,
    action_term: Array,
    kept: Array | None = None,
) -> tuple[Array, Array]:
    """The new h, as `[*batch, deter]` and as `[block, *batch, size]`."""
    state = carry.state
    z = state.stoch.reshape(*state.stoch.shape[:-2], -1)
    x = jnp.concatenate(
        [
            rssm.deter_in.after(apply("deter_in", state.deter)),
            rssm.stoch_in.after(apply("stoch_in", z)),
        ],
        axis=-1,
    )
    m = apply("mix_deter", carry.h_blocks)
    m = m + _to_blocks(rssm, apply("mix_embeddings", x) + action_term)
    m = jax.nn.silu(_block_norm(rssm, m))
    gates = apply("gates", m)
    gates = add_bias(gates, _block_vector(rssm, rssm.gates.bias, gates.ndim))
    r, c, u = jnp.split(gates, 3, axis=-1)
    c = jnp.tanh(jax.nn.sigmoid(r) * c)
    u = jax.nn.sigmoid(u - 1.0)
    kept = carry.h_blocks if kept is None else kept
    h_blocks = u * c + (1.0 - u) * kept
    return jnp.moveaxis(h_blocks, 0, -2).reshape(state.deter.shape), h_blocks


def recurrent_weights(rssm: RSSM) -> tuple[Weights, Float[Array, "hidden deter"]]:
    """The recurrent map's matrices, and the mixing layer's matrix for the action."""
    size = rssm.deter // rssm.blocks
    weight = rssm.mix.weight
    dense = weight[:, size:].transpose(1, 0, 2).reshape(-1, rssm.deter)
    split = dense.shape[0] * 2 // 3
    weights = {
        "deter_in": rssm.deter_in.linear.weight,
        "stoch_in": rssm.stoch_in.linear.weight,
        "mix_deter": weight[:, :size],
        "mix_embeddings": dense[:split],
        "gates": rssm.gates.weight,
    }
    return weights, dense[split:]


def action_term_of(
    rssm: RSSM,
    from_action: Float[Array, "hidden deter"],
    action: Float[Array, "*batch action"],
) -> Float[Array, "*batch deter"]:
    """The action's share of the mixing layer's output, with its bias."""
    embedding = rssm.action_in(clip_action(action))
    return add_bias(embedding @ from_action, rssm.mix.bias)


def _to_blocks(rssm: RSSM, x: Array) -> Array:
    return jnp.moveaxis(x.reshape(*x.shape[:-1], rssm.blocks, -1), -2, 0)


def _block_norm(rssm: RSSM, x: Array) -> Array:
    """`mix_norm` over the block and the last axis."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = jnp.mean(jnp.square(wide), axis=(0, -1), keepdims=True)
    scale = _block_vector(rssm, rssm.mix_norm.scale.astype(wide.dtype), x.ndim)
    return (wide * jax.lax.rsqrt(mean + RMS_EPS) * scale).astype(x.dtype)


def _block_vector(rssm: RSSM, vector: Array, ndim: int) -> Array:
    return vector.reshape(rssm.blocks, *(1,) * (ndim - 2), -1)
