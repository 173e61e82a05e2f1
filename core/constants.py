"""Constants inside DreamerV3's losses, and the names of the penalty's choices.

The weights of the losses are in `train.config`, which imports this file: no JAX here.
"""

from typing import Literal, NamedTuple, get_args

Target = Literal["posterior", "prior", "both", "core"]
Normalization = Literal["sampled", "batch"]
Decay = Literal["sqrt", "exponential", "linear", "cosine", "none"]

PENALIZED: dict[Target, tuple[str, ...]] = {
    "posterior": ("posterior",),
    "prior": ("prior",),
    "both": ("posterior", "prior"),
    "core": ("core",),
}
"""The maps that each target of the penalty means."""

TARGETS: tuple[Target, ...] = get_args(Target)


class LossConstants(NamedTuple):
    """DreamerV3's by default. In training the flags' (`Config.loss_constants`)."""

    free_nats: float = 1.0
    """KL divergences below this many nats are not reduced further."""
    discount_horizon: int = 333
    """The discount of a decision is 1 − 1/horizon."""
    return_lambda: float = 0.95
    """λ of the λ-return."""
    entropy: float = 3e-4
    """η: weight of the policy's entropy."""
    slow_regularizer: float = 1.0
    """Weight of the cross-entropy between the value and its slow copy."""
    return_norm_rate: float = 0.01
    """Rate at which the percentiles of the returns are tracked."""
    return_norm_limit: float = 1.0
    """Returns with a range below this are not scaled up."""

    @property
    def discount(self) -> float:
        """γ."""
        return 1.0 - 1.0 / self.discount_horizon


DREAMERV3 = LossConstants()
