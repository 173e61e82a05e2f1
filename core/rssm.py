"""Recurrent state-space model of DreamerV3: block GRU with categorical latents.

    h_t = f(h_{t−1}, z_{t−1}, a_{t−1})          `core`
    z_t ~ q(z | h_t, e_t)                        `posterior_logits`
    ẑ_t ~ p(z | h_t)                             `prior_logits`

Every method accepts leading batch axes; the time axis, where there is one, comes
first: `[time, *batch, ...]`.
"""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from core.deferred import Apply, Weights, deferred_scan, plain, scan
from core.dists import Categoricals, onehot_from_uniform
from core.nets import RMS_EPS, BlockLinear, Dense, Linear, RMSNorm, add_bias
from core.states import CARRY_AXES, Carry, check_sequence
from core.states import Observed as Observed
from core.states import State as State
from kernels.sharding import divided


class RSSM(eqx.Module):
    """Block-GRU state-space model with K categorical latents of C classes.

    Args:
        embed_size: size of the encoder's output e.
        action_size: number of action dimensions.
        deter, hidden, rows, classes, blocks: sizes of h, of the hidden layers, K, C
            and the number of diagonal blocks of the recurrent layers.
        unimix: share of the uniform distribution in posterior and prior.

    Raises:
        ValueError: if `blocks` does not divide `deter`, a size is not positive, there
            are less than 2 `classes`, or `unimix` is not in [0, 1).
    """

    deter_in: Dense
    stoch_in: Dense
    action_in: Dense
    mix: BlockLinear
    mix_norm: RMSNorm
    gates: BlockLinear
    posterior_in: Dense
    posterior_out: Linear
    prior_in: tuple[Dense, Dense]
    prior_out: Linear
    deter: int = eqx.field(static=True)
    rows: int = eqx.field(static=True)
    classes: int = eqx.field(static=True)
    blocks: int = eqx.field(static=True)
    unimix: float = eqx.field(static=True)

    def __init__(
        self,
        embed_size: int,
        action_size: int,
        *,
        key: PRNGKeyArray,
        deter: int = 512,
        hidden: int = 64,
        rows: int = 32,
        classes: int = 4,
        blocks: int = 8,
        unimix: float = 0.01,
    ):
        sizes = {"embed_size": embed_size, "action_size": action_size, "deter": deter}
        sizes |= {"hidden": hidden, "rows": rows, "classes": classes, "blocks": blocks}
        for name, size in sizes.items():
            if size < (least := 2 if name == "classes" else 1):
                raise ValueError(f"{name}={size}: must be at least {least}")
        if not 0.0 <= unimix < 1.0:
            raise ValueError(f"unimix={unimix}: must be at least 0 and below 1")
        if deter % blocks:
            raise ValueError(f"blocks={blocks} must divide deter={deter}")
        keys = iter(jax.random.split(key, 10))
        latent = rows * classes
        self.deter_in = Dense(deter, hidden, key=next(keys))
        self.stoch_in = Dense(latent, hidden, key=next(keys))
        self.action_in = Dense(action_size, hidden, key=next(keys))
        # Each block reads its own part of h and all three embeddings.
        mix_inputs = deter + blocks * 3 * hidden
        self.mix = BlockLinear(mix_inputs, deter, blocks, key=next(keys))
        self.mix_norm = RMSNorm(deter)
        self.gates = BlockLinear(deter, 3 * deter, blocks, key=next(keys))
        self.posterior_in = Dense(deter + embed_size, hidden, key=next(keys))
        self.posterior_out = Linear(hidden, latent, key=next(keys))
        self.prior_in = (
            Dense(deter, hidden, key=next(keys)),
            Dense(hidden, hidden, key=next(keys)),
        )
        self.prior_out = Linear(hidden, latent, key=next(keys))
        self.deter, self.rows, self.classes = deter, rows, classes
        self.blocks, self.unimix = blocks, unimix

    def initial(self, *batch: int) -> State:
        """The all-zero state every sequence starts from."""
        dtype = self.posterior_out.weight.dtype
        return State(
            jnp.zeros((*batch, self.deter), dtype),
            jnp.zeros((*batch, self.rows, self.classes), dtype),
        )

    def categoricals(self, logits: Float[Array, "*batch rows classes"]) -> Categoricals:
        """The distribution of z for posterior or prior logits."""
        return Categoricals(logits, self.unimix)

    def core(
        self,
        state: State,
        action: Float[Array, "*batch action"],
        *,
        kept: Float[Array, "*batch deter"] | None = None,
    ) -> Float[Array, "*batch deter"]:
        """The recurrent map h' = f(h, z, a) = u⊙c + (1 − u)⊙h.

        Args:
            kept: what the gate u keeps in place of h, `state.deter` by default. Passing
                the same numbers as a constant leaves the direct path from h to h' out
                of a Jacobian with respect to `state`.
        """
        weights, from_action = self._core_weights()
        term = self._action_term(from_action, action)
        kept = state.deter if kept is None else kept
        carry = self._carry(state)
        return self._core(plain(weights), carry, term, self._grouped(kept))[0]

    def prior_logits(
        self, deter: Float[Array, "*batch deter"]
    ) -> Float[Array, "*batch rows classes"]:
        """Logits of p(z | h)."""
        return self.prior_logits_from(self.prior_in[0].linear(deter))

    def prior_logits_from(
        self, preactivation: Float[Array, "*batch hidden"]
    ) -> Float[Array, "*batch rows classes"]:
        """Logits of p(z | h) from the output of the prior's first linear layer."""
        first, second = self.prior_in
        hidden = second(first.activate(preactivation))
        return self._rows(self.prior_out(hidden))

    def posterior_logits(
        self,
        deter: Float[Array, "*batch deter"],
        embed: Float[Array, "*batch embed"],
    ) -> Float[Array, "*batch rows classes"]:
        """Logits of q(z | h, e)."""
        hidden = self.posterior_in(jnp.concatenate([deter, embed], axis=-1))
        return self._rows(self.posterior_out(hidden))

    def observe_step(
        self,
        state: State,
        embed: Float[Array, "*batch embed"],
        action: Float[Array, "*batch action"],
        is_first: Bool[Array, "*batch"],
        *,
        key: PRNGKeyArray,
    ) -> State:
        """The state after one observation; see `observe` for the arguments."""
        add_time = lambda x: x[None]  # noqa: E731
        final, _ = self.observe(
            state, add_time(embed), add_time(action), add_time(is_first), key=key
        )
        return final

    def observe(
        self,
        state: State,
        embeds: Float[Array, "time *batch embed"],
        actions: Float[Array, "time *batch action"],
        is_first: Bool[Array, "time *batch"],
        *,
        key: PRNGKeyArray,
        deferred: bool = False,
    ) -> tuple[State, Observed]:
        """Filter a sequence: h and a posterior sample for every observation.

        Args:
            state: the state before the sequence.
            embeds: encoder outputs e_t.
            actions: the action taken *before* each observation, a_{t−1}.
            is_first: where true, the state and the action are zeroed first.
            deferred: take the weights' gradients in one product after the backward
                scan (`core.deferred`): faster, but for reverse mode only. Devices that
                share the work must divide the (one) batch axis evenly.

        Returns:
            The last state and everything found on the way.

        Raises:
            ValueError: the shapes do not fit together, or `is_first` is not boolean.
        """
        embed = self.posterior_in.linear.weight.shape[0] - self.deter
        sizes = self.deter, embed, self.action_in.linear.weight.shape[0]
        check_sequence(state, embeds, actions, is_first, sizes)
        weights, from_action = self._core_weights()
        dtype = state.deter.dtype
        keep = ~is_first
        # All that does not depend on the carried state is computed for the whole
        # sequence at once: the action's share of the recurrent layer, the encoder's
        # share of the posterior layer, the random numbers.
        actions = jnp.where(keep[..., None], actions, 0.0).astype(dtype)
        action_terms = self._action_term(from_action, actions)
        weight = self.posterior_in.linear.weight
        embed_terms = add_bias(
            embeds @ weight[self.deter :], self.posterior_in.linear.bias
        )
        uniforms = jax.random.uniform(key, (*is_first.shape, self.rows))
        weights |= {
            "posterior_in": weight[: self.deter],
            "posterior_out": self.posterior_out.weight,
        }
        inputs = (action_terms, embed_terms, uniforms, keep)
        vectors = eqx.filter(self, lambda x: eqx.is_array(x) and x.ndim == 1)
        run = partial(scan, RSSM._observe_step)
        if deferred:
            # Gradients of what devices share are added up after the scan, not in it.
            run = divided(
                partial(deferred_scan, RSSM._observe_step),
                (None, None, CARRY_AXES, 1),
                (CARRY_AXES, 1),
            )
        last, observed = run(vectors, weights, self._carry(state), inputs)
        return last.state, observed

    def _observe_step(
        self, apply: Apply, carry: Carry, inputs: tuple[Array, ...]
    ) -> tuple[Carry, Observed]:
        action_term, embed_term, uniform, keep = inputs
        carry = carry.masked(keep)
        deter, grouped = self._core(apply, carry, action_term)
        preactivation = apply("posterior_in", deter) + embed_term
        hidden = self.posterior_in.activate(preactivation)
        out = apply("posterior_out", hidden)
        logits = self._rows(add_bias(out, self.posterior_out.bias))
        state = State(deter, self._sample(logits, uniform))
        return Carry(state, grouped), Observed(state, logits, preactivation)

    def imagine[Inputs, Seen](
        self,
        state: State,
        act: Callable[[State, Inputs], tuple[Float[Array, "*batch action"], Seen]],
        inputs: Inputs,
        *,
        uniforms: Float[Array, "time *batch rows"],
    ) -> tuple[State, Seen]:
        """Roll the prior forward, `act` choosing every action.

        Args:
            state: where the rollouts start.
            act: from a state and the step's inputs the action `[*batch, action]`, and
                whatever is wanted of that state: it is computed where the state is
                made, so that states need not be kept.
            inputs: arrays whose first axis is time, such as keys or noise.
            uniforms: numbers from [0, 1) that draw every z, one for each categorical
                of each step and batch element: `[time, *batch, rows]`.

        Returns:
            The state after the last action, and what was seen in the states before,
            stacked along a first axis.

        Raises:
            ValueError: `uniforms` has another shape.
        """
        wanted = state.stoch.shape[:-1]
        if uniforms.shape[1:] != wanted:
            raise ValueError(
                f"uniforms has shape {uniforms.shape}: states of shape "
                f"{state.stoch.shape} need (time, {', '.join(map(str, wanted))})"
            )
        weights, from_action = self._core_weights()

        def step(carry: Carry, row: tuple[Inputs, Array]):
            inputs, uniform = row
            action, seen = act(carry.state, inputs)
            dtype = carry.state.deter.dtype
            term = self._action_term(from_action, action.astype(dtype))
            deter, grouped = self._core(plain(weights), carry, term)
            state = State(deter, self._sample(self.prior_logits(deter), uniform))
            return Carry(state, grouped), seen

        last, seen = jax.lax.scan(step, self._carry(state), (inputs, uniforms))
        return last.state, seen

    def _sample(self, logits: Array, uniform: Array) -> Array:
        dist = self.categoricals(logits)
        sample = dist.straight_through(onehot_from_uniform(dist.probs, uniform))
        return sample.astype(logits.dtype)

    def _rows(self, flat: Array) -> Array:
        return flat.reshape(*flat.shape[:-1], self.rows, self.classes)

    def _action_term(self, from_action: Array, action: Array) -> Array:
        # DreamerV3 scales every action entry beyond ±1 back to ±1.
        action = action / jax.lax.stop_gradient(jnp.maximum(1.0, jnp.abs(action)))
        return add_bias(self.action_in(action) @ from_action, self.mix.bias)

    def _core(
        self,
        apply: Apply,
        carry: Carry,
        action_term: Array,
        kept: Array | None = None,
    ) -> tuple[Array, Array]:
        """Block GRU; `action_term` is the action's share of the mixing layer.

        Between the two block layers the group axis comes first, `[group, *batch,
        size]`: the batched matrix products then read and write contiguous memory,
        which XLA's CPU code needs to be fast.

        Returns:
            The new h as `[*batch, deter]` and as `[group, *batch, size]`. The caller
            carries both: were the second made from the first, XLA would compute the
            gates inside the transposition, one number at a time.
        """
        state = carry.state
        flat = state.stoch.reshape(*state.stoch.shape[:-2], -1)
        embeddings = jnp.concatenate(
            [
                self.deter_in.after(apply("deter_in", state.deter)),
                self.stoch_in.after(apply("stoch_in", flat)),
            ],
            axis=-1,
        )
        mixed = apply("mix_deter", carry.grouped) + self._grouped(
            apply("mix_embeddings", embeddings) + action_term
        )
        mixed = jax.nn.silu(self._grouped_norm(mixed))
        gates = apply("gates", mixed)
        gates = add_bias(gates, self._group_vector(self.gates.bias, gates.ndim))
        reset, candidate, update = jnp.split(gates, 3, axis=-1)
        candidate = jnp.tanh(jax.nn.sigmoid(reset) * candidate)
        update = jax.nn.sigmoid(update - 1.0)
        kept = carry.grouped if kept is None else kept
        grouped = update * candidate + (1.0 - update) * kept
        deter = jnp.moveaxis(grouped, 0, -2).reshape(state.deter.shape)
        return deter, grouped

    def _core_weights(self) -> tuple[Weights, Float[Array, "hidden deter"]]:
        """What the recurrent core multiplies by, and the share of the action.

        All blocks of the mixing layer read the same three embeddings, so that their
        share of the block-diagonal weight is one dense matrix. It is cut here, outside
        the scans.
        """
        group = self.deter // self.blocks
        weight = self.mix.weight
        dense = weight[:, group:].transpose(1, 0, 2).reshape(-1, self.deter)
        split = dense.shape[0] * 2 // 3
        weights = {
            "deter_in": self.deter_in.linear.weight,
            "stoch_in": self.stoch_in.linear.weight,
            "mix_deter": weight[:, :group],
            "mix_embeddings": dense[:split],
            "gates": self.gates.weight,
        }
        return weights, dense[split:]

    def _carry(self, state: State) -> Carry:
        return Carry(state, self._grouped(state.deter))

    def _grouped(self, x: Array) -> Array:
        return jnp.moveaxis(x.reshape(*x.shape[:-1], self.blocks, -1), -2, 0)

    def _grouped_norm(self, x: Array) -> Array:
        """`mix_norm` over the group and the last axis."""
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean = jnp.mean(jnp.square(wide), axis=(0, -1), keepdims=True)
        scale = self._group_vector(self.mix_norm.scale.astype(wide.dtype), x.ndim)
        return (wide * jax.lax.rsqrt(mean + RMS_EPS) * scale).astype(x.dtype)

    def _group_vector(self, vector: Array, ndim: int) -> Array:
        return vector.reshape(self.blocks, *(1,) * (ndim - 2), -1)
