"""Power laws ε = A n^-α: least-squares fit, bootstrap intervals and local slopes."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Key
from scipy import stats


class PowerLaw(NamedTuple):
    """ε(n) = scale · n^-exponent, both positive (equation 3 of the paper)."""

    scale: float
    exponent: float

    def __call__(self, samples: Any) -> Any:
        """ε at `samples`, a number or an array."""
        return self.scale * samples**-self.exponent

    def root(self) -> "PowerLaw":
        """The law of √ε: from mean squared to root mean squared errors."""
        return PowerLaw(self.scale**0.5, self.exponent / 2)

    def square(self) -> "PowerLaw":
        """The law of ε²."""
        return PowerLaw(self.scale**2, 2 * self.exponent)


class Fit(NamedTuple):
    """A fitted law and its R² in log ε."""

    law: PowerLaw
    r_squared: float


class Interval(NamedTuple):
    """A percentile interval and the standard error over the same resamples."""

    low: float
    high: float
    standard_error: float


class Bootstrap(NamedTuple):
    """Uncertainty of a fit over the seeds."""

    scale: Interval
    exponent: Interval


def fit(samples: Float[np.ndarray, " n"], errors: Float[np.ndarray, "n seeds"]) -> Fit:
    """Least squares in log-log on the means over seeds, as in Section 4.1.

    Args:
        samples: sample counts (anchors), at least two distinct ones.
        errors: positive; rows are anchors, columns are seeds.

    Raises:
        ValueError: fewer than two anchors, or an error that is not positive.
    """
    _check(samples, errors)
    x, y = np.log(samples), np.log(np.mean(errors, axis=1))
    line: Any = stats.linregress(x, y)  # its stubs lose the fields
    # For constant errors scipy returns a correlation of 0, but the fit is exact.
    r_squared = 1.0 if np.ptp(y) == 0 else float(line.rvalue**2)
    return Fit(PowerLaw(float(np.exp(line.intercept)), float(-line.slope)), r_squared)


def bootstrap(
    samples: Float[np.ndarray, " n"],
    errors: Float[np.ndarray, "n seeds"],
    *,
    key: Key[Array, ""],
    resamples: int = 1000,
    level: float = 0.95,
) -> Bootstrap:
    """Percentile bootstrap: refits with seeds resampled within each anchor.

    With few seeds the interval is too narrow; two seeds barely determine the spread.

    Raises:
        ValueError: as `fit`, or fewer than two resamples.
    """
    _check(samples, errors)
    if resamples < 2:
        raise ValueError(f"resamples={resamples} must be at least 2")
    x = np.log(samples)
    centred = x - x.mean()

    def refit(*drawn: np.ndarray, axis: int) -> np.ndarray:
        """Scale and exponent of every resample: a vectorized `fit`."""
        y = np.log([seeds.mean(axis=axis) for seeds in drawn])
        slope = np.tensordot(centred, y, 1) / (centred @ centred)
        return np.stack([np.exp(y.mean(axis=0) - slope * x.mean()), -slope])

    found: Any = stats.bootstrap(
        tuple(errors),
        refit,
        n_resamples=resamples,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(np.asarray(jax.random.key_data(key))),
    )
    intervals = zip(*found.confidence_interval, found.standard_error, strict=True)
    return Bootstrap(*(Interval(*map(float, interval)) for interval in intervals))


def local_slopes(
    samples: Float[np.ndarray, " n"], errors: Float[np.ndarray, "n seeds"]
) -> Float[np.ndarray, " n_less_1"]:
    """The exponent between successive anchors.

    Constant for a power law; decreasing where the errors approach a floor.

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
            f"errors: the smallest is {np.min(errors):g}, but a power law needs "
            "positive errors: leave out anchors with error 0"
        )
