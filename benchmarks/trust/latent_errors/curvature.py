"""How sharply the loss of the predictions bends along errors of z.

The Jacobian-regularization paper (section 3): under a zero-drift latent error the
expected loss has a term with the loss's Hessian, which favours wider minima. Here this
Hessian's trace in z is measured on a trained model.
"""

from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from benchmarks.trust.episodes import Episodes
from core.agent import Agent
from core.smoothness import hessian_trace
from core.states import State

PROBES = 64


def curvature(
    agent: Agent, chosen: Episodes, *, discount: float, key: PRNGKeyArray
) -> dict[str, Any]:
    """The Hessian of the prediction losses in z, at visited states.

    The loss of a state is −ln p(o, r, continue | h, z) as it is trained: rec + rew +
    con. z is the one that was drawn, an argument of the heads as any other.

    Returns:
        `loss`: its mean over the states; `trace`: the mean of tr ∂²loss/∂z², with the
        standard error over states (`standard error`) and that which the probes add at
        one state (`of the probes`); `entries`: of z. An error N(0, σ²) on every entry
        raises the loss by σ²/2 times the trace, to second order.
    """
    states = len(chosen.reward)
    losses, traces, errors = jax.device_get(
        _measure(agent, chosen, jax.random.split(key, states), discount=discount)
    )
    traces = np.asarray(traces, np.float64)
    return {
        "loss": float(np.mean(losses)),
        "trace": float(np.mean(traces)),
        "standard error": float(np.std(traces, ddof=1) / np.sqrt(states)),
        "of the probes": float(np.sqrt(np.mean(np.square(errors)))),
        "entries": int(np.prod(chosen.latent.stoch.shape[1:])),
    }


@partial(jax.jit, static_argnames="discount")
def _measure(
    agent: Agent, chosen: Episodes, keys: PRNGKeyArray, *, discount: float
) -> tuple[Array, Array, Array]:
    model = agent.model

    def at(seen: Episodes, key: PRNGKeyArray) -> tuple[Array, Array, Array]:
        z = seen.latent.stoch

        def loss(flat: Array) -> Array:
            features = State(seen.latent.deter, flat.reshape(z.shape)).features
            goes_on = (1.0 - seen.is_terminal) * discount
            return (
                model.decoder.loss(features, seen.obs)
                + model.reward(features).loss(seen.reward)
                + model.cont(features).loss(goes_on)
            )

        found = hessian_trace(loss, z.reshape(-1), key=key, probes=PROBES)
        return loss(z.reshape(-1)), found.trace, found.standard_error

    return jax.vmap(at)(chosen, keys)
