"""Settings of the exogenous latent error; `train.program.latent` makes it of them."""

import dataclasses
from typing import Annotated, Literal

from tyro.conf import arg

from train.config.fields import NonNegative, check_fields, invalid


@dataclasses.dataclass(frozen=True)
class LatentErrorConfig:
    """An error added to every latent z that is drawn, in acting and in training."""

    kind: Annotated[
        Literal["none", "zero-drift", "drift"], arg(name="latent-error")
    ] = "none"
    """zero-drift: normal, of mean 0 and a constant variance.
    drift: mean and variance drawn anew in every step from uniform distributions."""
    variance: Annotated[NonNegative, arg(name="latent-error-variance")] = 5.0
    """Of zero-drift. The Jacobian-regularization paper: 5 for Walker, .1 for
    Quadruped."""
    drift_mean_low: float = 0.0
    """Lower bound of the drift's mean."""
    drift_mean_high: float = 5.0
    """Upper bound of the drift's mean."""
    drift_variance_low: NonNegative = 0.0
    """Lower bound of the drift's variance."""
    drift_variance_high: NonNegative = 5.0
    """Upper bound of the drift's variance."""
    imagine_from: Literal["noisy", "clean"] = "noisy"
    """Rollouts start from latent states with their error, or from those without."""
    evaluate: Annotated[bool, arg(name="eval-latent-error")] = True
    """Whether eval/return_mean is of acting with the error, as in the paper. The other
    of the two is logged as well."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.kind != "drift":
            return
        for name in ("mean", "variance"):
            low, high = (
                getattr(self, f"drift_{name}_{end}") for end in ("low", "high")
            )
            if low > high:
                flag = f"--drift-{name}-low"
                why = f"exceeds --drift-{name}-high {high:g}"
                raise invalid(flag, low, why, f"at most {high:g}", f"{high:g}")
