"""An exogenous error of the latent state: z ← z + N(μ_t, σ_t²).

"Towards Unraveling and Improving Generalization in World Models", section 5 and
appendix D.5. In every step μ_t and σ_t² are drawn from uniform distributions, one of
each for a sequence, and every entry of z (all classes of all categoricals) gets its own
normal number:

    zero drift:  μ_t = 0,        σ_t² = σ²
    drift:       μ_t ~ U[0, 5],  σ_t² ~ U[0, 5]

The paper states neither whether μ_t is shared by the entries of z nor by the sequences
of a batch; shared by the entries it is a drift, which it would otherwise not be on
average over them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from core.states import State

ERROR = 5
"""Folded into a key for the error's own random numbers: all others stay the same."""

Number = float | Float[Array, ""]


class LatentError(NamedTuple):
    """The process; its numbers may be arrays, to `vmap` over several processes.

    Attributes:
        mean: lower and upper bound of μ_t.
        variance: lower and upper bound of σ_t².
    """

    mean: tuple[Number, Number]
    variance: tuple[Number, Number]

    def draw(
        self, key: PRNGKeyArray, like: Float[Array, "*steps K C"]
    ) -> Float[Array, "*steps K C"]:
        """Errors for every step of every sequence, of the shape and type of `like`.

        They are drawn in at least float32: a normal number in bfloat16 takes only 128
        different values.
        """
        mean_key, variance_key, normal_key = jax.random.split(key, 3)
        dtype = jnp.promote_types(like.dtype, jnp.float32)
        one_each = (*like.shape[:-2], 1, 1)
        between = lambda key, bounds: (
            bounds[0]
            + (bounds[1] - bounds[0]) * (jax.random.uniform(key, one_each, dtype))
        )
        mean = between(mean_key, self.mean)
        variance = between(variance_key, self.variance)
        normal = jax.random.normal(normal_key, like.shape, dtype)
        return (mean + jnp.sqrt(variance) * normal).astype(like.dtype)

    def added(self, state: State, key: PRNGKeyArray) -> State:
        """The state with an error on its z."""
        return state.plus(self.draw(key, state.stoch))

    def of_sequence(
        self, initial: State, steps: int, *, key: PRNGKeyArray
    ) -> tuple[State, Float[Array, "steps *batch K C"]]:
        """`initial` with an error of its own, and those of the steps after it.

        Random numbers are further ones beside those that `key` draws elsewhere.
        """
        every = jnp.broadcast_to(initial.stoch, (steps + 1, *initial.stoch.shape))
        errors = self.draw(jax.random.fold_in(key, ERROR), every)
        return initial.plus(errors[0]), errors[1:]


def zero_drift(variance: Number) -> LatentError:
    """μ_t = 0 and a constant variance."""
    return LatentError((0.0, 0.0), (variance, variance))
