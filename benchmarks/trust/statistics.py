"""Means with intervals over starts that come from a few episodes."""

from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy import stats

DRAWS = 2000
LEVEL = 95  # per cent

Values = Float[np.ndarray, "*rows starts"]


class Clusters:
    """Starts of the same episodes: drawn together, as their errors are alike.

    Args:
        labels: the episode of each start.
        seed: of the bootstrap.
    """

    def __init__(self, labels: Int[Array | np.ndarray, " starts"], *, seed: int = 0):
        _, self._index = np.unique(np.asarray(labels), return_inverse=True)
        self._count = int(self._index.max()) + 1
        rng = np.random.default_rng(seed)
        # How often each episode is drawn.
        equal = np.full(self._count, 1 / self._count)
        self._times = rng.multinomial(self._count, equal, size=DRAWS).astype(float)

    def _sums(self, values: Values) -> Float[np.ndarray, "*rows clusters"]:
        place = np.eye(self._count)[self._index]
        return values @ place

    def mean(
        self, values: Values, known: Bool[np.ndarray, "*rows starts"] | None = None
    ) -> dict[str, Any]:
        """Mean over known starts, and its 95 % bootstrap interval; NaN if none is."""
        values = np.asarray(values, np.float64)
        known = np.ones(values.shape, bool) if known is None else known
        sums = self._sums(np.where(known, values, 0.0))
        counts = self._sums(known.astype(float))
        with np.errstate(invalid="ignore", divide="ignore"):
            drawn = (sums @ self._times.T) / (counts @ self._times.T)
            mean = sums.sum(-1) / counts.sum(-1)
        tail = (100 - LEVEL) / 2
        low, high = np.nanpercentile(drawn, [tail, 100 - tail], axis=-1)
        return {"mean": mean.tolist(), "low": low.tolist(), "high": high.tolist()}


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Spearman's ρ; None if one of the two does not vary."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return correlation(stats.rankdata(x), stats.rankdata(y))


def correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Pearson's r; None if one of the two does not vary."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])
