"""The latent family and the exogenous latent error that a run was configured with."""

from core.latent_error import LatentError, zero_drift
from core.latents import Categorical, Gaussian, Latents
from train.config import Config


def latents(config: Config) -> Latents:
    """The family of z."""
    if config.latent.family == "gaussian":
        return Gaussian(config.latent.std_floor)
    return Categorical(config.model.classes, config.loss.unimix)


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
