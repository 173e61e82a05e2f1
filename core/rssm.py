"""Recurrent state-space model (RSSM) of DreamerV3: a block GRU and random latents.

    recurrent model:  h_t = f(h_{t−1}, z_{t−1}, a_{t−1})    `RSSM.recurrent`
    posterior:        z_t ~ q(z_t | h_t, e_t)               `RSSM.posterior_logits`
    prior:            ẑ_t ~ p(ẑ_t | h_t)                    `RSSM.prior_logits`

h is `State.deter`, z and ẑ are `State.stoch` (`RSSM.sample` draws both), e is the
encoder's output (`embed`) and a the action. z has K variables of C entries, which are
the axes K and C of all shapes: K categoricals of C classes, or with Gaussian latents K
real numbers and C = 1. Their distributions have P parameters each: C logits, or two
(`core.latents`).

This file is the definition. Training runs the same equations in a faster memory
layout, `core.loops.block_gru`; tests compare the two in value and gradient.

Every method accepts leading batch axes. The time axis, if any, comes first:
`[time, *batch, ...]`.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from core.latents import Categorical, Latents
from core.networks.dists import LatentDist
from core.networks.layers import BlockLinear, Dense, Linear, RMSNorm
from core.states import Observed as Observed
from core.states import ObserveInputs, check_sequence, check_uniforms, shifted
from core.states import State as State


class RSSM(eqx.Module):
    """Block-GRU state-space model with K latent variables.

    Args:
        embed_size: size of the encoder's output e.
        action_size: number of action dimensions.
        deter: size of h.
        hidden: width of the hidden layers.
        categoricals: K; with Gaussian latents the length of z.
        classes: C of categorical latents.
        unimix: uniform share of their probabilities.
        blocks: number of diagonal blocks of the recurrent layers.
        latents: the family of z, in place of `classes` and `unimix`.

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
    categoricals: int = eqx.field(static=True)
    blocks: int = eqx.field(static=True)
    latents: Latents = eqx.field(static=True)

    def __init__(
        self,
        embed_size: int,
        action_size: int,
        *,
        key: PRNGKeyArray,
        deter: int = 512,
        hidden: int = 64,
        categoricals: int = 32,
        classes: int = 4,
        blocks: int = 8,
        unimix: float = 0.01,
        latents: Latents | None = None,
    ):
        latents = latents or Categorical(classes, unimix)
        sizes = {"embed_size": embed_size, "action_size": action_size, "deter": deter}
        sizes |= {"hidden": hidden, "categoricals": categoricals, "blocks": blocks}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name}={size}: must be at least 1")
        if deter % blocks:
            raise ValueError(f"blocks={blocks} must divide deter={deter}")
        keys = iter(jax.random.split(key, 10))
        latent = categoricals * latents.entries
        outputs = categoricals * latents.parameters
        self.deter_in = Dense(deter, hidden, key=next(keys))
        self.stoch_in = Dense(latent, hidden, key=next(keys))
        self.action_in = Dense(action_size, hidden, key=next(keys))
        # Each block reads its own part of h and all three embeddings.
        mix_inputs = deter + blocks * 3 * hidden
        self.mix = BlockLinear(mix_inputs, deter, blocks, key=next(keys))
        self.mix_norm = RMSNorm(deter)
        self.gates = BlockLinear(deter, 3 * deter, blocks, key=next(keys))
        self.posterior_in = Dense(deter + embed_size, hidden, key=next(keys))
        self.posterior_out = Linear(hidden, outputs, key=next(keys))
        self.prior_in = (
            Dense(deter, hidden, key=next(keys)),
            Dense(hidden, hidden, key=next(keys)),
        )
        self.prior_out = Linear(hidden, outputs, key=next(keys))
        self.deter, self.categoricals = deter, categoricals
        self.blocks, self.latents = blocks, latents

    @property
    def categorical(self) -> Categorical:
        """The family of z, where it is the categorical one.

        Raises:
            ValueError: it is another.
        """
        if not isinstance(self.latents, Categorical):
            raise ValueError(
                f"latents={self.latents}: have no classes and no class probabilities; "
                "this needs core.latents.Categorical"
            )
        return self.latents

    @property
    def classes(self) -> int:
        """C of categorical latents; ValueError for others."""
        return self.categorical.classes

    @property
    def unimix(self) -> float:
        """Of categorical latents; ValueError for others."""
        return self.categorical.unimix

    def initial(self, *batch: int) -> State:
        """The state before the first step: all zeros."""
        dtype = self.posterior_out.weight.dtype
        return State(
            jnp.zeros((*batch, self.deter), dtype),
            jnp.zeros((*batch, self.categoricals, self.latents.entries), dtype),
        )

    def dist(self, logits: Float[Array, "*batch K P"]) -> LatentDist:
        """The distribution of z for posterior or prior logits."""
        return self.latents.dist(logits)

    def recurrent(
        self,
        state: State,
        action: Float[Array, "*batch action"],
        *,
        kept: Float[Array, "*batch deter"] | None = None,
    ) -> Float[Array, "*batch deter"]:
        """The recurrent map h' = f(h, z, a), a GRU of `blocks` blocks.

            x       = [Dense(h), Dense(z), Dense(a)]
            m_g     = SiLU(RMSNorm(W_g [h_g, x]))          for every block g
            r, c, u = split(V_g m_g)
            h'_g    = σ(u − 1)⊙tanh(σ(r)⊙c) + (1 − σ(u − 1))⊙h_g

        RMSNorm is over all blocks. Actions beyond ±1 are clipped (`clip_action`).

        Args:
            kept: the h_g that the gate carries over in the last line; `state.deter` by
                default. If the same values are passed as a constant, a Jacobian with
                respect to `state` leaves out this direct path from h to h'.
        """
        h, z = state.deter, state.stoch.reshape(*state.stoch.shape[:-2], -1)
        a = clip_action(action)
        x = [self.deter_in(h), self.stoch_in(z), self.action_in(a)]
        x = jnp.concatenate(x, axis=-1)
        h_g = self._blocks(h)
        x_g = jnp.broadcast_to(x[..., None, :], (*h_g.shape[:-1], x.shape[-1]))
        m = self.mix(jnp.concatenate([h_g, x_g], axis=-1))
        m = jax.nn.silu(self.mix_norm(m.reshape(h.shape)))
        r, c, u = jnp.split(self.gates(self._blocks(m)), 3, axis=-1)
        c = jnp.tanh(jax.nn.sigmoid(r) * c)
        u = jax.nn.sigmoid(u - 1.0)
        kept_g = self._blocks(h if kept is None else kept)
        return (u * c + (1.0 - u) * kept_g).reshape(h.shape)

    def prior_logits(
        self, deter: Float[Array, "*batch deter"]
    ) -> Float[Array, "*batch K P"]:
        """Logits l of p(ẑ | h), in two hidden layers; or means and raw deviations.

            x = SiLU(RMSNorm(W_2 SiLU(RMSNorm(W_1 h + b_1)) + b_2))
            l = W x + b

        `dist` makes a distribution of them, as of the posterior's.
        """
        return self.prior_logits_from(self.prior_in[0].linear(deter))

    def prior_logits_from(
        self, preactivation: Float[Array, "*batch hidden"]
    ) -> Float[Array, "*batch K P"]:
        """Logits of p(ẑ | h) from the output of the prior's first linear layer."""
        first, second = self.prior_in
        hidden = second(first.activate(preactivation))
        return self.split(self.prior_out(hidden))

    def posterior_logits(
        self,
        deter: Float[Array, "*batch deter"],
        embed: Float[Array, "*batch embed"],
    ) -> Float[Array, "*batch K P"]:
        """Logits l of q(z | h, e), K rows of C; or means and raw deviations m, r.

            x   = SiLU(RMSNorm(W_in [h, e] + b_in))
            l   = W x + b
            q_i = (1 − unimix)·softmax(l_i) + unimix/C    for every row i
            s   = softplus(r) + floor                     for Gaussian latents

        The last two are of `dist`, see `core.latents`.
        """
        u = jnp.concatenate([deter, embed], axis=-1)
        return self.posterior_logits_from(self.posterior_in.linear(u))

    def posterior_logits_from(
        self, preactivation: Float[Array, "*batch hidden"]
    ) -> Float[Array, "*batch K P"]:
        """Logits of q(z | h, e) from the output of its first linear layer."""
        return self.split(self.posterior_out(self.posterior_in.activate(preactivation)))

    def sample(
        self,
        logits: Float[Array, "*batch K P"],
        uniform: Float[Array, "*batch K"],
    ) -> Float[Array, "*batch K C"]:
        """z with a gradient: straight-through, or reparametrized for Gaussians.

        Args:
            uniform: random numbers from [0, 1), one for each variable; z is drawn by
                inverting the cumulative distribution.
        """
        return self.latents.sample(logits, uniform)

    def observe_step(
        self,
        state: State,
        embed: Float[Array, "*batch embed"],
        action: Float[Array, "*batch action"],
        is_first: Bool[Array, "*batch"],
        *,
        key: PRNGKeyArray,
    ) -> State:
        """h_t and z_t ~ q(z_t | h_t, e_t) after one observation.

        Args:
            state: the state before, h_{t−1} and z_{t−1}.
            embed: encoder output e_t.
            action: the action taken *before* the observation, a_{t−1}.
            is_first: where true, the state and the action are zeroed first.
        """
        uniform = jax.random.uniform(key, (*is_first.shape, self.categoricals))
        return self._observe_step(state, embed, action, is_first, uniform)[0]

    def _observe_step(
        self, state: State, e: Array, a: Array, is_first: Array, uniform: Array
    ) -> tuple[State, Observed]:
        state = state.masked(~is_first)
        a = jnp.where(is_first[..., None], 0.0, a).astype(state.deter.dtype)
        h = self.recurrent(state, a)
        preactivation = self.posterior_in.linear(jnp.concatenate([h, e], axis=-1))
        logits = self.posterior_logits_from(preactivation)
        state = State(h, self.sample(logits, uniform))
        return state, Observed(state, logits, preactivation)

    def observe(
        self,
        state: State,
        embeds: Float[Array, "time *batch embed"],
        actions: Float[Array, "time *batch action"],
        is_first: Bool[Array, "time *batch"],
        *,
        key: PRNGKeyArray,
        errors: Float[Array, "time *batch K C"] | None = None,
    ) -> tuple[State, Observed]:
        """Filter a sequence: `observe_step` for every observation in turn.

        Args:
            errors: added to every z after it is drawn (`core.latent_error`).

        Returns:
            The last state, and the states, logits and pre-activations of all steps.

        Raises:
            ValueError: the shapes do not fit together, or `is_first` is not boolean.
        """
        given = ObserveInputs(embeds, actions, is_first, errors)
        check_sequence(state, given, self.sizes)
        uniforms = jax.random.uniform(key, (*is_first.shape, self.categoricals))

        def step(state: State, inputs: tuple) -> tuple[State, Observed]:
            *row, error = inputs
            return self._observe_step(state.plus(error), *row)

        # The scan carries the z that was drawn; its error belongs to the next step.
        rows = (embeds, actions, is_first, uniforms, shifted(errors))
        last, observed = jax.lax.scan(step, state, rows)
        return last.plus(None if errors is None else errors[-1]), observed.plus(errors)

    def imagine[Inputs, Seen](
        self,
        state: State,
        act: Callable[[State, Inputs], tuple[Float[Array, "*batch action"], Seen]],
        inputs: Inputs,
        *,
        uniforms: Float[Array, "time *batch K"],
    ) -> tuple[State, Seen]:
        """Imagine: h_{t+1} = f(h_t, ẑ_t, a_t), ẑ_{t+1} ~ p(ẑ_{t+1} | h_{t+1}).

        Args:
            state: the state in which the rollouts start.
            act: `(state, inputs) -> (action, seen)`: the action a_t, and any outputs
                computed from the state, which need not be stored then.
            inputs: inputs of `act`, such as keys or noise; the first axis is time.
            uniforms: random numbers from [0, 1) that draw every ẑ, one for each
                categorical of each step and batch element.

        Returns:
            The state after the last action, and `seen` of all states before it, stacked
            along a first time axis.

        Raises:
            ValueError: `uniforms` has another shape.
        """
        check_uniforms(state, uniforms)

        def step(state: State, each: tuple[Inputs, Array]) -> tuple[State, Seen]:
            inputs, uniform = each
            action, seen = act(state, inputs)
            h = self.recurrent(state, action.astype(state.deter.dtype))
            return State(h, self.sample(self.prior_logits(h), uniform)), seen

        return jax.lax.scan(step, state, (inputs, uniforms))

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Sizes of h, e and a."""
        embed = self.posterior_in.linear.weight.shape[0] - self.deter
        return self.deter, embed, self.action_in.linear.weight.shape[0]

    @property
    def features(self) -> int:
        """Length of `State.features`: h and the flattened z."""
        return self.deter + self.categoricals * self.latents.entries

    def state(self, features: Float[Array, "*batch features"]) -> State:
        """The state with these features: the inverse of `State.features`."""
        h, z = features[..., : self.deter], features[..., self.deter :]
        entries = self.categoricals, self.latents.entries
        return State(h, z.reshape(*z.shape[:-1], *entries))

    def split(self, flat: Float[Array, "*batch KP"]) -> Float[Array, "*batch K P"]:
        """The outputs of posterior or prior, as parameters of each variable."""
        parameters = self.categoricals, self.latents.parameters
        return flat.reshape(*flat.shape[:-1], *parameters)

    def _blocks(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], self.blocks, -1)


def clip_action(action: Float[Array, "*batch action"]) -> Float[Array, "*batch action"]:
    """a / max(1, |a|) entry by entry, as in DreamerV3: entries beyond ±1 become ±1."""
    return action / jax.lax.stop_gradient(jnp.maximum(1.0, jnp.abs(action)))
