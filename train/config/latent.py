"""Settings of the latent z and its exogenous error, made in `train.program.latent`."""

import dataclasses
from typing import Annotated, Literal

from tyro.conf import arg

from train.config.fields import NonNegative, Positive, check_fields, invalid

STD_FLOOR = 0.1
"""That of PlaNet and DreamerV1."""


@dataclasses.dataclass(frozen=True)
class LatentConfig:
    """The family of z, and an error added to every z drawn, in acting and training."""

    family: Annotated[Literal["categorical", "gaussian"], arg(name="latent")] = (
        "categorical"
    )
    """categorical: one-hot vectors (DreamerV3). gaussian: as many real numbers, as in
    PlaNet; with --penalty none or --penalty-target core."""
    std_floor: Annotated[Positive, arg(name="latent-std-floor")] = STD_FLOOR
    """With --latent gaussian: lower bound of the standard deviations."""
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
        if self.family != "gaussian" and self.std_floor != STD_FLOOR:
            why = f"has no effect with --latent {self.family}"
            allowed = "with --latent gaussian, or leave it out"
            raise invalid("--latent-std-floor", self.std_floor, why, allowed)
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

    @property
    def stored_bytes(self) -> int:
        """Of one variable of z in the replay buffer."""
        return 1 if self.family == "categorical" else 2

    def entries(self, classes: int) -> int:
        """Numbers of one variable of z (`core.latents.Latents.entries`)."""
        return classes if self.family == "categorical" else 1
