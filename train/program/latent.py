"""The exogenous latent error that a run was configured with."""

from core.latent_error import LatentError, zero_drift
from train.config import Config


def latent_error(config: Config) -> LatentError | None:
    """The error of every latent state of a run; None for none."""
    options = config.latent
    if options.kind == "none":
        return None
    if options.kind == "zero-drift":
        return zero_drift(options.variance)
    return LatentError(
        (options.drift_mean_low, options.drift_mean_high),
        (options.drift_variance_low, options.drift_variance_high),
    )
