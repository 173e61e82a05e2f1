"""Power laws ε = A n^-α: the fit, its uncertainty, and where the data leave the law."""

from typing import Any, NamedTuple, Self

import jax
import numpy as np
from jaxtyping import Array, Float, Key


class PowerLaw(NamedTuple):
    """ε(n) = scale · n^-exponent, both positive (equation 3 of the paper)."""

    scale: float
    exponent: float

    def __call__(self, samples: Any) -> Any:
        """The error that `samples` samples lead to: a number, or an array of them."""
        return self.scale * samples**-self.exponent

    def root(self) -> "PowerLaw":
        """The law of √ε: what a law of mean squared errors says about their roots."""
        return PowerLaw(self.scale**0.5, self.exponent / 2)

    def square(self) -> "PowerLaw":
        """The law of ε²."""
        return PowerLaw(self.scale**2, 2 * self.exponent)


class Fit(NamedTuple):
    """A fitted law and R², the share of the variance of log ε that it explains."""

    law: PowerLaw
    r_squared: float


class Interval(NamedTuple):
    """A percentile interval and the standard error of the same resamples."""

    low: float
    high: float
    standard_error: float

    @classmethod
    def of(cls, values: Float[np.ndarray, " resamples"], *, level: float) -> Self:
        """The central interval that holds `level` of the values."""
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
        return cls(float(low), float(high), float(np.std(values, ddof=1)))


class Bootstrap(NamedTuple):
    """Uncertainty of a fit over the seeds."""

    scale: Interval
    exponent: Interval


def fit(samples: Float[np.ndarray, " n"], errors: Float[np.ndarray, "n seeds"]) -> Fit:
    """Least squares in log-log on the means over seeds, as in Section 4.1.

    Args:
        samples: the anchors, at least two different ones.
        errors: positive; one row an anchor, one column a seed.

    Raises:
        ValueError: fewer than two anchors, or an error that is not positive.
    """
    _check(samples, errors)
    x, y = np.log(samples), np.log(np.mean(errors, axis=1))
    slope, intercept = np.polyfit(x, y, 1)
    residual, total = (
        np.sum((y - slope * x - intercept) ** 2),
        np.sum((y - y.mean()) ** 2),
    )
    r_squared = 1.0 if total == 0 else float(1 - residual / total)
    return Fit(PowerLaw(float(np.exp(intercept)), float(-slope)), r_squared)


def bootstrap(
    samples: Float[np.ndarray, " n"],
    errors: Float[np.ndarray, "n seeds"],
    *,
    key: Key[Array, ""],
    resamples: int = 1000,
    level: float = 0.95,
) -> Bootstrap:
    """Refits with seeds drawn with replacement within each anchor.

    With few seeds the interval is too narrow: two seeds know nothing of the spread.

    Raises:
        ValueError: as `fit`, or fewer than two resamples.
    """
    _check(samples, errors)
    if resamples < 2:
        raise ValueError(f"resamples={resamples} must be at least 2")
    n, seeds = errors.shape
    chosen = np.asarray(jax.random.randint(key, (resamples, n, seeds), 0, seeds))
    means = np.take_along_axis(errors[None], chosen, axis=2).mean(axis=2)
    x = np.log(samples)
    x = x - x.mean()
    y = np.log(means)
    slopes = y @ x / (x @ x)
    intercepts = y.mean(axis=1) - slopes * np.log(samples).mean()
    return Bootstrap(
        scale=Interval.of(np.exp(intercepts), level=level),
        exponent=Interval.of(-slopes, level=level),
    )


def local_slopes(
    samples: Float[np.ndarray, " n"], errors: Float[np.ndarray, "n seeds"]
) -> Float[np.ndarray, " n_less_1"]:
    """The exponent between each two successive anchors.

    Constant where the errors follow a power law; falling where they approach a floor.

    Raises:
        ValueError: as `fit`.
    """
    _check(samples, errors)
    return -np.diff(np.log(np.mean(errors, axis=1))) / np.diff(np.log(samples))


def _check(samples: np.ndarray, errors: np.ndarray) -> None:
    if len(np.unique(samples)) < 2 or np.any(samples <= 0):
        raise ValueError(
            f"samples={samples.tolist()}: give at least two different, positive counts"
        )
    if not np.all(errors > 0):
        raise ValueError(
            f"errors: the smallest is {np.min(errors):g}, and a power law has only "
            "positive ones: leave out what is exactly learned"
        )
