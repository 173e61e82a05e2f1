"""Timing programs against each other: interleaved rounds, ratios within a round.

The machines this runs on are shared and noisy. Programs are run in turn, round after
round, and compared within each round, so that a slow minute hits all of them.
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
        """Of at least one value; quartiles of one value are the value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def scaled(self, factor: float) -> "Spread":
        """In another unit."""
        return Spread(*(factor * value for value in self))

    @property
    def quartiles(self) -> str:
        """Such as `0.98-1.06`, with the digits that its size asks for."""
        digits = ",.0f" if abs(self.median) >= 100 else ".2f"
        return f"{self.low:{digits}}-{self.high:{digits}}"


def bars(spreads: Iterable[Spread]) -> list[list[float]]:
    """From the quartiles, what matplotlib's `errorbar` draws below and above."""
    spreads = list(spreads)
    return [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]


def interleave[Name: Hashable](
    programs: Mapping[Name, Callable[[], object]],
    *,
    rounds: int,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[Name, list[float]]:
    """Seconds of every program in every round, after one round that does not count.

    Each round has another order, so that none is always the first, or always after the
    same other one's leavings in the caches and the allocator: a Williams design.

    Args:
        programs: functions that return when their work is done.
        progress: called with the number of rounds finished.
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
    """From both ends inwards (0, n - 1, 1, n - 2, ...), moved on by one each round.

    Of an even number of programs, each follows each other one once in as many rounds;
    of an odd one twice in twice as many, every second round being turned around.
    """
    places = [
        (step // 2 if step % 2 == 0 else -(step // 2 + 1)) for step in range(count)
    ]
    places = [(place + number) % count for place in places]
    return places[::-1] if count % 2 and number % 2 else places


def ratios(seconds: list[float], baseline: list[float]) -> Spread:
    """The ratio to the baseline of the same round."""
    return Spread.of([a / b for a, b in zip(seconds, baseline, strict=True)])
