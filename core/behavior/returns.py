"""λ-returns, and DreamerV3's scale of returns from percentiles."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def lambda_return(
    reward: Float[Array, "time *batch"],
    discount: Float[Array, "time *batch"],
    mix: Float[Array, "time *batch"],
    value: Float[Array, "time *batch"],
) -> Float[Array, "time-1 *batch"]:
    """λ-returns of all steps except the last, by backward recursion:

        R_{T−1} = v_{T−1}
        R_t = r_{t+1} + γ_{t+1}·[(1 − λ_{t+1})·v_{t+1} + λ_{t+1}·R_{t+1}]

    Args:
        reward: r_t, received on arriving at step t (entry 0 is not used).
        discount: γ_t, the discount times the probability that step t is not terminal
            (entry 0 is not used).
        mix: λ_t, 0 where the episode ends at step t (entry 0 is not used).
        value: v_t, the estimates to bootstrap from.
    """

    # R_t = own_t + share_t·R_{t+1}. Two such steps are one of the same form, so that
    # log T operations do for T steps.
    own = reward[1:] + discount[1:] * (1.0 - mix[1:]) * value[1:]
    share = discount[1:] * mix[1:]
    own = own.at[-1].add(share[-1] * value[-1])

    def join(later: tuple[Array, Array], now: tuple[Array, Array]):
        return now[0] + now[1] * later[0], now[1] * later[1]

    return jax.lax.associative_scan(join, (own, share), reverse=True)[0]


class ReturnScale(NamedTuple):
    """Moving averages of the 5th and 95th percentile of the returns.

    They start at 0, without bias correction, as in DreamerV3.
    """

    low: Float[Array, ""]
    high: Float[Array, ""]

    @classmethod
    def initial(cls) -> "ReturnScale":
        """Both percentiles at 0."""
        return cls(jnp.zeros(()), jnp.zeros(()))

    def update(
        self, returns: Float[Array, "*shape"], rate: float = 0.01
    ) -> "ReturnScale":
        """Move both averages towards the percentiles of `returns` by `rate`."""
        low, high = jnp.percentile(returns, jnp.array([5.0, 95.0]))
        mix = lambda old, new: (1.0 - rate) * old + rate * new
        return ReturnScale(mix(self.low, low), mix(self.high, high))

    def scale(self, limit: float = 1.0) -> Float[Array, ""]:
        """max(limit, high − low): small returns are not scaled up."""
        return jnp.maximum(limit, self.high - self.low)
