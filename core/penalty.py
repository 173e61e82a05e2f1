"""The Jacobian penalty of the latent dynamics: targets, sampled states, coefficient.

Posterior and prior (GPLD, Algorithm 1): R(u) = 1/K Σ_i ‖J_{q_i}(u)ᵀ ε_i‖², with
u = [h, e] for the posterior and u = h for the prior. Recurrent map f (the target is
called "core", the Jacobian-regularization paper's word): ‖J_f‖_F.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from core.constants import PENALIZED, TARGETS, Decay, Normalization, Target
from core.latents import Categorical
from core.loops import block_gru
from core.networks.transforms import merge
from core.rssm import RSSM, Observed, State
from core.transition import Transition
from kernels import (
    CategoricalHead,
    Implementation,
    TwoLayerHead,
    jacobian_penalty_mean,
    row_probe_penalty,
    two_layer_penalty_mean,
)
from kernels.sharding import divide


@dataclasses.dataclass(frozen=True)
class PenaltyOptions:
    """Static choices of the penalty; see `train.config.PenaltyConfig` for the flags."""

    implementation: Implementation = "xla"
    target: Target = "posterior"
    rho: float = 0.5
    normalization: Normalization = "sampled"
    probe_kind: Literal["rademacher", "hadamard", "exact"] = "rademacher"
    probes: int | None = None
    core_carry: bool = True
    interpret: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown name, or ρ outside of (0, 1]."""
        allowed = {
            "target": TARGETS,
            "normalization": get_args(Normalization),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"{name}={getattr(self, name)!r}: must be one of {values}"
                )
        if not 0 < self.rho <= 1:
            raise ValueError(f"rho={self.rho}: must be above 0 and at most 1")


def decayed_coefficient(
    updates: Int[Array, ""],
    *,
    initial: float = 0.5,
    minimum: float = 0.001,
    decay_scale: float = 1000.0,
    decay: Decay = "sqrt",
    start: int = 0,
) -> Float[Array, ""]:
    """λ_T = max(λ_0·d(T/c), λ_min) after T optimizer updates.

        sqrt         d(x) = 1/√(1 + x)           (GPLD, Algorithm 2)
        exponential  d(x) = exp(−x)
        linear       d(x) = max(1 − x, 0)
        cosine       d(x) = (1 + cos(π·min(x, 1)))/2
        none         d(x) = 1

    Args:
        decay_scale: c, in updates.
        start: λ is 0 before this update, and T counts from it.
    """
    x = jnp.maximum(updates - start, 0) / decay_scale
    factor = {
        "sqrt": lambda: 1.0 / jnp.sqrt(1.0 + x),
        "exponential": lambda: jnp.exp(-x),
        "linear": lambda: jnp.maximum(1.0 - x, 0.0),
        "cosine": lambda: 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.minimum(x, 1.0))),
        "none": lambda: jnp.ones_like(x),
    }[decay]()
    coefficient = jnp.maximum(initial * factor, minimum)
    return jnp.where(updates < start, 0.0, coefficient) if start else coefficient


def annealed_coefficient(
    coefficient: Float[Array, ""],
    error: Float[Array, ""],
    *,
    reference: float,
    minimum: float = 0.001,
) -> Float[Array, ""]:
    """λ·min(1, E/E_ref): it falls as the model's measured error E does.

    Not below `minimum`, unless λ itself is 0. No gradient flows through E.

    Args:
        coefficient: λ of the schedule.
        error: E ≥ 0, such as the KL divergence of posterior and prior.
        reference: E_ref > 0, below which the penalty is weakened.
    """
    share = jnp.minimum(1.0, jax.lax.stop_gradient(error) / reference)
    least = jnp.minimum(coefficient, minimum)
    return jnp.maximum(coefficient * share, least)


def sample_states(key: PRNGKeyArray, total: int, rho: float) -> Int[Array, " sampled"]:
    """⌊ρ·total⌋ distinct random indices, at least one; for ρ = 1 all, in order."""
    count = max(1, int(rho * total + 1e-9))  # 0.29 * 100 is below 29
    if count == total:
        return jnp.arange(total)
    return jax.random.permutation(key, total)[:count]


@jax.named_scope("penalty")
def dynamics_penalty(
    rssm: RSSM,
    observed: Observed,
    embeds: Float[Array, "time *batch embed"],
    batch: Transition,
    *,
    key: PRNGKeyArray,
    options: PenaltyOptions,
) -> dict[str, Float[Array, ""]]:
    """The mean penalty of each map that the target means, without its coefficient λ.

    Gradients also flow through u, into the encoder and the recurrent map. With
    `normalization="sampled"` the mean is over the sampled states (Algorithm 1). With
    "batch" their sum is divided by the number of all states, as in the authors'
    released code, so that the effective coefficient is λ·ρ.

    Raises:
        ValueError: a target other than "core" with latents that are not categorical.
    """
    if options.target != "core" and not isinstance(rssm.latents, Categorical):
        raise ValueError(
            f"target={options.target!r}: penalizes class probabilities, which "
            f"{rssm.latents} latents do not have; use target='core'"
        )
    if options.target == "core":
        return {
            "core": _sampled_recurrent(rssm, observed, batch, key=key, options=options)
        }
    state_key, posterior_key, prior_key = jax.random.split(key, 3)
    deter = _flatten(observed.states.deter)
    index = sample_states(state_key, deter.shape[0], options.rho)
    weight = 1.0
    if options.normalization == "batch":
        weight = index.shape[0] / deter.shape[0]
    deter = divide(deter[index])

    def posterior() -> Float[Array, ""]:
        u = jnp.concatenate([deter, divide(_flatten(embeds)[index])], axis=-1)
        preactivation = divide(_flatten(observed.preactivation)[index])
        return posterior_penalty(
            rssm, u, preactivation, key=posterior_key, options=options
        )

    def prior() -> Float[Array, ""]:
        return prior_penalty(rssm, deter, key=prior_key, options=options)

    terms = {"posterior": posterior, "prior": prior}
    return {name: weight * terms[name]() for name in PENALIZED[options.target]}


def posterior_penalty(
    rssm: RSSM,
    u: Float[Array, "n inputs"],
    preactivation: Float[Array, "n hidden"] | None = None,
    *,
    key: PRNGKeyArray,
    options: PenaltyOptions,
) -> Float[Array, ""]:
    """Mean penalty of q(z | u) over n states u = [h, e] (GPLD eq. 5).

    It uses all given states; of the options it reads only the implementation and the
    probes.
    """
    return jacobian_penalty_mean(
        u,
        posterior_head(rssm),
        key,
        classes=rssm.classes,
        unimix=rssm.unimix,
        probes=options.probes,
        probe_kind=options.probe_kind,
        implementation=options.implementation,
        preactivation=preactivation,
        interpret=options.interpret,
    )


def posterior_jacobian(
    rssm: RSSM, observed: Observed, embeds: Float[Array, "time *batch embed"]
) -> Float[Array, ""]:
    """Exact (1/K) Σ_i ‖J_{q_i}(u)‖_F², a metric without gradient.

    With Gaussian latents that of the means (`mean_norms`).

    The mean over the last states of all trajectories. It is logged with every target
    and without a penalty, so that runs can be compared.
    """
    # One state per trajectory: states of one trajectory are similar, and each of
    # several devices has its own trajectories.
    last = lambda x: merge(x[-1], x.ndim - 2)
    u = jnp.concatenate([last(observed.states.deter), last(embeds)], axis=-1)
    if not isinstance(rssm.latents, Categorical):
        inputs = rssm, last(observed.preactivation)
        rssm, a = jax.lax.optimization_barrier(jax.lax.stop_gradient(inputs))
        first = rssm.posterior_in.linear.weight
        return jnp.mean(mean_norms(rssm, rssm.posterior_logits_from, a, first))
    inputs = (posterior_head(rssm), u, last(observed.preactivation))
    # Without the barrier XLA could fuse this into the training computation, whose
    # rounding would then depend on the log.
    head, u, preactivation = jax.lax.optimization_barrier(jax.lax.stop_gradient(inputs))
    return jacobian_penalty_mean(
        u,
        head,
        None,
        classes=rssm.classes,
        unimix=rssm.unimix,
        probe_kind="exact",
        preactivation=preactivation,
    )


def mean_norms(
    rssm: RSSM,
    logits: Callable[[Float[Array, " hidden"]], Float[Array, "K P"]],
    preactivation: Float[Array, "n hidden"],
    first_layer: Float[Array, "inputs hidden"],
) -> Float[Array, " n"]:
    """(1/K) Σ_i ‖∂E z_i/∂u‖², exact, for any family of z and by reverse mode.

    Args:
        logits: of posterior or prior, from its first linear layer's output.
        first_layer: this layer's weight; u is its input.
    """
    wide = jnp.promote_types(first_layer.dtype, jnp.float32)
    gram = first_layer.astype(wide).T @ first_layer.astype(wide)
    mean = lambda a: rssm.dist(logits(a)).mean()

    def at(a: Array) -> Array:
        rows = jax.jacrev(mean)(a).astype(wide)
        return jnp.sum((rows @ gram) * rows) / rows.shape[0]

    return jax.vmap(at)(preactivation)


def posterior_head(rssm: RSSM) -> CategoricalHead:
    """The weights of q(z | h, e), as the kernels take them."""
    first, out = rssm.posterior_in, rssm.posterior_out
    return CategoricalHead(
        first.linear.weight, first.linear.bias, first.norm.scale, out.weight, out.bias
    )


def prior_penalty(
    rssm: RSSM,
    deter: Float[Array, "n deter"],
    *,
    key: PRNGKeyArray,
    options: PenaltyOptions,
) -> Float[Array, ""]:
    """Mean penalty of p(ẑ | h) over n states u = h (GPLD eq. 5).

    It uses all given states. `implementation="reference"` takes vector-Jacobian
    products of the whole head; the others have the same formulas (`kernels.gram`).
    """
    if options.implementation != "reference":
        return two_layer_penalty_mean(
            rssm.prior_in[0].linear(deter),
            prior_head(rssm),
            key,
            classes=rssm.classes,
            unimix=rssm.unimix,
            probes=options.probes,
            probe_kind=options.probe_kind,
        )
    per_state = row_probe_penalty(
        lambda h: rssm.dist(rssm.prior_logits(h)).mean(),
        deter,
        key,
        rows=rssm.categoricals,
        classes=rssm.classes,
        probes=options.probes,
        probe_kind=options.probe_kind,
    )
    return jnp.mean(per_state)


def prior_head(rssm: RSSM) -> TwoLayerHead:
    """The weights of p(ẑ | h), as the kernels take them."""
    first, second = rssm.prior_in
    into = first.linear.weight, first.norm.scale
    between = second.linear.weight, second.linear.bias, second.norm.scale
    return TwoLayerHead(*into, *between, rssm.prior_out.weight, rssm.prior_out.bias)


def recurrent_penalty(
    rssm: RSSM,
    states: State,
    actions: Float[Array, "n action"],
    *,
    key: PRNGKeyArray,
    probes: int = 1,
    carry: bool = True,
) -> Float[Array, " n"]:
    """`recurrent_norm` at n states, with `probes` random Rademacher vectors each."""
    shape = (actions.shape[0], probes, rssm.deter)
    signs = jax.random.rademacher(key, shape, states.deter.dtype)
    norm = lambda state, action, v: recurrent_norm(rssm, state, action, v, carry=carry)
    return jax.vmap(norm)(states, actions, signs)


def recurrent_norm(
    rssm: RSSM,
    state: State,
    action: Float[Array, " action"],
    signs: Float[Array, "probes deter"],
    *,
    carry: bool = True,
) -> Float[Array, ""]:
    """Estimate of ‖J‖_F at one state, J = ∂f(h, z, a)/∂(h, z).

    The root of the mean of ‖Jᵀv‖² over the given vectors v: E‖Jᵀv‖² = ‖J‖_F² for
    random signs. The norm is not squared, as in the Jacobian-regularization paper, so
    the estimate is biased low for few probes.

    Args:
        signs: the probe vectors v.
        carry: include the gate's direct path (1 − u)⊙h. In an untrained model it is
            most of ‖J‖_F², so that the penalty mostly punishes memory.
    """
    wide = jnp.promote_types(state.deter.dtype, jnp.float32)
    kept = None if carry else state.deter
    _, pull = jax.vjp(
        lambda state: block_gru.recurrent(rssm, state, action, kept=kept), state
    )

    def square(v: Array) -> Array:
        (cotangent,) = pull(v)
        return sum(
            (jnp.sum(jnp.square(x.astype(wide))) for x in cotangent),
            jnp.zeros((), wide),
        )

    # The root has no derivative at J = 0, hence the smallest positive number.
    return jnp.sqrt(jnp.mean(jax.vmap(square)(signs)) + jnp.finfo(wide).tiny)


def _sampled_recurrent(
    rssm: RSSM,
    observed: Observed,
    batch: Transition,
    *,
    key: PRNGKeyArray,
    options: PenaltyOptions,
) -> Float[Array, ""]:
    """Mean `recurrent_penalty` over sampled transitions within an episode."""
    state_key, probe_key = jax.random.split(key)
    states, actions, inside = jax.tree.map(
        lambda x: merge(x, batch.reward.ndim),
        (
            jax.tree.map(lambda x: x[:-1], observed.states),
            batch.action[1:],
            ~batch.is_first[1:],
        ),
    )
    total = inside.size
    index = sample_states(state_key, total, options.rho)
    states, actions, inside = jax.tree.map(
        lambda x: divide(x[index]), (states, actions, inside)
    )
    norms = recurrent_penalty(
        rssm,
        states,
        actions.astype(states.deter.dtype),
        key=probe_key,
        probes=options.probes or 1,
        carry=options.core_carry,
    )
    mean = jnp.sum(norms * inside) / jnp.maximum(jnp.sum(inside), 1)
    weight = index.size / total if options.normalization == "batch" else 1.0
    return weight * mean


def _flatten(x: Array) -> Array:
    """Merge all axes except the last."""
    return merge(x, x.ndim - 1)
