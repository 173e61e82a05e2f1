"""What an error of the latent state in every step does to the imagined return.

The expansion of the Jacobian-regularization paper (`core.theory.perturbation`), for the
mean-field model under the policy's mean action: z is replaced by its probabilities, so
that the return is a differentiable function of it. The error is N(0, σ²) on every entry
of z, as the paper's zero-drift error. With Gaussian latents z is replaced by its mean.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from benchmarks.trust.episodes import predict
from core.agent import Agent
from core.smoothness import closed_loop
from core.theory.perturbation import expansion_terms

PAIRS = 2  # of antithetic errors, at each state
GRID = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


def latent_noise(
    agent: Agent,
    features: Float[Array, "n features"],
    *,
    steps: int,
    key: PRNGKeyArray,
) -> dict[str, Any]:
    """The change of the return of `steps` imagined steps, to second order in σ.

    Returns:
        `second order`: c of the change c·σ², with its standard error; `valid`: the
        largest σ of `GRID` up to which the remainder is below a quarter of that, 0 if
        there is none; `change`: that realized for each σ, with standard errors.
    """
    size = features.shape[-1]
    deter = agent.model.rssm.deter
    states = jnp.repeat(features, 2 * PAIRS, axis=0)
    shape = len(features), PAIRS, steps, size - deter
    noise = jax.random.normal(key, shape)
    # With antithetic pairs the term of first order is exactly zero.
    noise = jnp.stack([noise, -noise], axis=1).reshape(-1, *shape[2:])

    def step(x: Array, _: Array) -> Array:
        """x: features, the return so far, the weight of what follows."""
        inside, total, weight = x[:size], x[size], x[size + 1]
        heads = predict(agent, agent.model.rssm.state(inside))
        total = total + weight * heads.reward
        weight = weight * heads.discount
        return jnp.concatenate([closed_loop(agent, inside), jnp.stack([total, weight])])

    def error(_: Array, noise: Array) -> Array:
        return jnp.concatenate([jnp.zeros(deter), noise, jnp.zeros(2)])

    def earned(x: Array) -> Array:
        end = predict(agent, agent.model.rssm.state(x[:size]))
        return x[size] + x[size + 1] * end.value

    start = jnp.concatenate(
        [states, jnp.zeros((len(states), 1)), jnp.ones((len(states), 1))], axis=-1
    )
    found = expansion_terms(step, earned, start, noise, diffusion_error=error)
    check = found.check(GRID)
    second = np.asarray(found.second, np.float64)
    changes = [found.change(sigma) for sigma in GRID]
    return {
        "steps": steps,
        "return": float(np.mean(found.base)),
        "second order": float(second.mean()),
        "standard error": float(second.std() / np.sqrt(len(second) - 1)),
        "valid": check.eps_valid,
        "sigma": list(GRID),
        "change": [change.mean for change in changes],
        "change error": [change.error for change in changes],
    }
