"""How smooth the parts of a trained model are, at given states.

Exact Jacobian norms of posterior, prior and recurrent map; the KL sensitivity of GPLD's
Appendix F:

    KL( r(·|u) ‖ r(·|u + δ) ) / ‖δ‖₂

with r the posterior and δ on e, or r the prior and δ on h. Categorical latents are
differentiated in their probabilities and Gaussian ones in their means, never through a
sample.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from core.latents import Categorical
from core.penalty import mean_norms, posterior_head, recurrent_norm
from core.rssm import RSSM
from core.states import State
from kernels import jacobian_penalty, row_probe_penalty


class Inputs(NamedTuple):
    """Inputs of posterior and prior at n states."""

    deter: Float[Array, "n deter"]
    """h."""
    embed: Float[Array, "n embed"]
    """e."""


def jacobian_norms(rssm: RSSM, inputs: Inputs) -> dict[str, Float[Array, " n"]]:
    """‖J‖_F² of a categorical, exact, averaged over the K categoricals of each state.

    Returns:
        For `posterior`, with J = ∂q_i/∂[h, e], and `prior`, with J = ∂p_i/∂h: the
        quantity that the penalty estimates (GPLD, eq. 5), one value for each state.
        With Gaussian latents, q_i and p_i stand for their means.
    """
    first = rssm.prior_in[0].linear
    if not isinstance(rssm.latents, Categorical):
        return _norms_of_means(rssm, inputs)
    u = jnp.concatenate([inputs.deter, inputs.embed], axis=-1)
    posterior = jacobian_penalty(
        u,
        posterior_head(rssm),
        None,
        classes=rssm.classes,
        unimix=rssm.unimix,
        probe_kind="exact",
    )
    prior = row_probe_penalty(
        lambda x: rssm.dist(rssm.prior_logits_from(x)).mean(),
        first(inputs.deter),
        None,
        rows=rssm.categoricals,
        classes=rssm.classes,
        probe_kind="exact",
        first_layer=first.weight,
    )
    return {"posterior": posterior, "prior": prior}


def recurrent_norms(
    rssm: RSSM, latents: State, actions: Float[Array, "n action"]
) -> Float[Array, " n"]:
    """Exact ‖J‖_F² of the recurrent map, J = ∂f(h, z, a)/∂(h, z), at n states.

    The Jacobian-regularization paper penalizes the root of it. One vector-Jacobian
    product for every entry of h, so that some states should do.

    Args:
        latents: h and z, with one axis of n states.
    """
    rows = jnp.eye(latents.deter.shape[-1], dtype=latents.deter.dtype)

    def square(state: tuple[State, Array]) -> Array:
        # The mean over the rows of ‖Jᵀ eᵢ‖² is their sum divided by their number.
        return jnp.square(recurrent_norm(rssm, *state, rows)) * len(rows)

    return jax.lax.map(square, (latents, actions))


def _norms_of_means(rssm: RSSM, inputs: Inputs) -> dict[str, Float[Array, " n"]]:
    """`jacobian_norms` without classes."""
    u = jnp.concatenate([inputs.deter, inputs.embed], axis=-1)
    posterior, prior = rssm.posterior_in.linear, rssm.prior_in[0].linear
    return {
        "posterior": mean_norms(
            rssm, rssm.posterior_logits_from, posterior(u), posterior.weight
        ),
        "prior": mean_norms(
            rssm, rssm.prior_logits_from, prior(inputs.deter), prior.weight
        ),
    }


def kl_sensitivity(
    rssm: RSSM,
    inputs: Inputs,
    magnitude: Float[Array, ""] | float,
    *,
    key: PRNGKeyArray,
) -> dict[str, Float[Array, " n"]]:
    """KL(r(·|u) ‖ r(·|u + δ)) / ‖δ‖₂ at each state (GPLD, Appendix F), in nats.

    δ has a direction drawn uniformly and the length `magnitude` times the mean norm of
    what it perturbs: e for `posterior`, h for `prior`.

    Args:
        magnitude: the paper's are .001 to .1.
    """
    posterior_key, prior_key = jax.random.split(key)
    posterior = lambda e: rssm.posterior_logits(inputs.deter, e)
    return {
        "posterior": _sensitivity(
            rssm, posterior, inputs.embed, magnitude, posterior_key
        ),
        "prior": _sensitivity(
            rssm, rssm.prior_logits, inputs.deter, magnitude, prior_key
        ),
    }


def _sensitivity(
    rssm: RSSM,
    logits: Callable[[Array], Array],
    x: Float[Array, "n size"],
    magnitude: Float[Array, ""] | float,
    key: PRNGKeyArray,
) -> Float[Array, " n"]:
    direction = jax.random.normal(key, x.shape)
    direction /= jnp.linalg.norm(direction, axis=-1, keepdims=True)
    length = magnitude * jnp.mean(jnp.linalg.norm(x, axis=-1))
    before, after = rssm.dist(logits(x)), rssm.dist(logits(x + length * direction))
    return before.kl_nearby(after) / length
