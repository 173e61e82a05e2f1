"""Comparative timing of programs: interleaved rounds, ratios within a round.

On shared, noisy machines, programs are run in turn and compared within each round, so
that a slow period affects all of them. What another process takes of the processor adds
to the wall time of a program, and hardly to its processor time.
"""

import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats


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


class Interval(NamedTuple):
    """A median, and the 95 % bootstrap interval of that median."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval":
        """Median and interval of at least one value."""
        median = statistics.median(values)
        if len(values) == 1:
            return cls(median, median, median)
        found = scipy.stats.bootstrap(
            (np.asarray(values),), np.median, method="percentile", rng=0
        ).confidence_interval
        return cls(median, float(found.low), float(found.high))


class Cost(NamedTuple):
    """What one call took.

    Attributes:
        wall: seconds by the clock.
        processor: seconds of user and system time, of all threads of this process.
    """

    wall: float
    processor: float


def bars(spreads: Iterable[Spread | Interval]) -> list[list[float]]:
    """Both sides of the medians, as errors for matplotlib's `errorbar`."""
    spreads = list(spreads)
    return [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]


def interleave[Name: Hashable](
    programs: Mapping[Name, Callable[[], object]],
    *,
    rounds: int,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[Name, list[float]]:
    """Wall seconds of every program in every round; see `interleave_costs`."""
    costs = interleave_costs(programs, rounds=rounds, progress=progress)
    return {name: [cost.wall for cost in found] for name, found in costs.items()}


def interleave_costs[Name: Hashable](
    programs: Mapping[Name, Callable[[], object]],
    *,
    rounds: int,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[Name, list[Cost]]:
    """The cost of every program in every round, after one warm-up round.

    The order changes from round to round (a Williams design), so that no program always
    runs first or after the same predecessor, whose cache contents could affect it.

    Args:
        programs: functions that return when their work is done.
        progress: called with the number of finished rounds.
    """
    costs: dict[Name, list[Cost]] = {name: [] for name in programs}
    turn = list(programs.items())
    for number in range(rounds + 1):
        for name, program in (turn[place] for place in order(len(turn), number)):
            start = Cost(time.perf_counter(), time.process_time())
            program()
            end = Cost(time.perf_counter(), time.process_time())
            if number:
                costs[name].append(
                    Cost(end.wall - start.wall, end.processor - start.processor)
                )
        progress(number)
    return costs


def order(count: int, number: int) -> list[int]:
    """The order of a round's programs: 0, n - 1, 1, n - 2, ..., each round one further.

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


def paired(seconds: Sequence[float], *baselines: Sequence[float]) -> Interval:
    """Ratio to the mean of the baselines in the same round."""
    rounds = zip(seconds, *baselines, strict=True)
    return Interval.of([x / statistics.mean(others) for x, *others in rounds])
