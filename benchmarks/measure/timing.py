"""Comparative timing of programs: interleaved rounds, ratios within a round.

On shared, noisy machines, programs are run in turn and compared within each round, so
that a slow period affects all of them.
"""

import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import NamedTuple


class Spread(NamedTuple):
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """Median and quartiles of at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def scaled(self, factor: float) -> "Spread":
        """Multiply by `factor`, e.g. for another unit."""
        return Spread(*(factor * value for value in self))

    @property
    def quartiles(self) -> str:
        """The quartiles as text, such as `0.98-1.06`."""
        digits = ",.0f" if abs(self.median) >= 100 else ".2f"
        return f"{self.low:{digits}}-{self.high:{digits}}"


def bars(spreads: Iterable[Spread]) -> list[list[float]]:
    """The quartiles as lower and upper errors for matplotlib's `errorbar`."""
    spreads = list(spreads)
    return [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]


def interleave[Name: Hashable](
    programs: Mapping[Name, Callable[[], object]],
    *,
    rounds: int,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[Name, list[float]]:
    """Seconds of every program in every round, after one warm-up round.

    The order changes from round to round (a Williams design), so that no program always
    runs first or after the same predecessor, whose cache contents could affect it.

    Args:
        programs: functions that return when their work is done.
        progress: called with the number of finished rounds.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in programs}
    turn = list(programs.items())
    for number in range(rounds + 1):
        for name, program in (turn[place] for place in _order(len(turn), number)):
            start = time.perf_counter()
            program()
            if number:
                seconds[name].append(time.perf_counter() - start)
        progress(number)
    return seconds


def _order(count: int, number: int) -> list[int]:
    """The order 0, n - 1, 1, n - 2, ..., shifted by one each round.

    For even n, each program follows every other one once in n rounds. For odd n every
    second round is reversed, and each follows every other one twice in 2 n rounds.
    """
    places = [
        (step // 2 if step % 2 == 0 else -(step // 2 + 1)) for step in range(count)
    ]
    places = [(place + number) % count for place in places]
    return places[::-1] if count % 2 and number % 2 else places


def ratios(seconds: list[float], baseline: list[float]) -> Spread:
    """Ratios to the baseline in the same round."""
    return Spread.of([a / b for a, b in zip(seconds, baseline, strict=True)])
