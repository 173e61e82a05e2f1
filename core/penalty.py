"""Which latent map is kept smooth, on which states, and how strongly (GPLD, 4.1-4.2).

The posterior penalty is Algorithm 1: R(u) = 1/K Σ_i ‖J_{q_i}(u)ᵀ ε_i‖², u = [h, e].
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from core.rssm import RSSM, Observed
from kernels import (
    CategoricalHead,
    Implementation,
    jacobian_penalty_mean,
    row_probe_penalty,
)


@dataclasses.dataclass(frozen=True)
class PenaltyOptions:
    """Static choices of the penalty; see `train.config.PenaltyConfig` for the flags."""

    implementation: Implementation = "xla"
    target: Literal["posterior", "prior", "both"] = "posterior"
    rho: float = 0.5
    normalization: Literal["sampled", "batch"] = "sampled"
    probe_kind: Literal["rademacher", "hadamard", "exact"] = "rademacher"
    probes: int | None = None


def decayed_coefficient(
    updates: Int[Array, ""],
    *,
    initial: float = 0.5,
    minimum: float = 0.001,
    decay_scale: float = 1000.0,
) -> Float[Array, ""]:
    """λ_T = max(λ_0/√(1 + T/c), λ_min) after T optimizer updates (Algorithm 2)."""
    return jnp.maximum(initial / jnp.sqrt(1.0 + updates / decay_scale), minimum)


def sample_states(key: PRNGKeyArray, total: int, rho: float) -> Int[Array, " sampled"]:
    """⌊ρ·total⌋ distinct indices (at least one); all of them in order for ρ = 1."""
    count = max(1, int(rho * total))
    if count == total:
        return jnp.arange(total)
    return jax.random.permutation(key, total)[:count]


def dynamics_penalty(
    rssm: RSSM,
    observed: Observed,
    embeds: Float[Array, "time *batch embed"],
    *,
    key: PRNGKeyArray,
    options: PenaltyOptions,
) -> dict[str, Float[Array, ""]]:
    """The mean penalty of each target, without its coefficient.

    Gradients flow through u as well: the penalty also trains the encoder and the
    recurrent core. With `normalization="sampled"` the mean is over the sampled states
    (Algorithm 1); with "batch" their sum is divided by the number of all states, as in
    the authors' released code, which makes the effective coefficient λ·ρ.
    """
    state_key, posterior_key, prior_key = jax.random.split(key, 3)
    deter = _flatten(observed.states.deter)
    index = sample_states(state_key, deter.shape[0], options.rho)
    weight = 1.0
    if options.normalization == "batch":
        weight = index.shape[0] / deter.shape[0]
    deter = deter[index]
    result = {}
    if options.target in ("posterior", "both"):
        u = jnp.concatenate([deter, _flatten(embeds)[index]], axis=-1)
        preactivation = _flatten(observed.preactivation)[index]
        result["posterior"] = weight * posterior_penalty(
            rssm, u, preactivation, key=posterior_key, options=options
        )
    if options.target in ("prior", "both"):
        result["prior"] = weight * prior_penalty(
            rssm, deter, key=prior_key, options=options
        )
    return result


def posterior_penalty(
    rssm: RSSM,
    u: Float[Array, "n inputs"],
    preactivation: Float[Array, "n hidden"] | None = None,
    *,
    key: PRNGKeyArray,
    options: PenaltyOptions,
) -> Float[Array, ""]:
    """Mean penalty of q(z | u) over n states u = [h, e] (GPLD eq. 5)."""
    first, out = rssm.posterior_in, rssm.posterior_out
    head = CategoricalHead(
        first.linear.weight, first.linear.bias, first.norm.scale, out.weight, out.bias
    )
    return jacobian_penalty_mean(
        u,
        head,
        key,
        classes=rssm.classes,
        unimix=rssm.unimix,
        probes=options.probes,
        probe_kind=options.probe_kind,
        implementation=options.implementation,
        preactivation=preactivation,
    )


def prior_penalty(
    rssm: RSSM,
    deter: Float[Array, "n deter"],
    *,
    key: PRNGKeyArray,
    options: PenaltyOptions,
) -> Float[Array, ""]:
    """Mean penalty of p(z | h) over n states, by vector-Jacobian products."""
    per_state = row_probe_penalty(
        lambda h: rssm.categoricals(rssm.prior_logits(h)).probs,
        deter,
        key,
        rows=rssm.rows,
        classes=rssm.classes,
        probes=options.probes,
        probe_kind=options.probe_kind,
    )
    return jnp.mean(per_state)


def _flatten(x: Array) -> Array:
    """All leading axes but the last in one."""
    return x.reshape(-1, x.shape[-1])
