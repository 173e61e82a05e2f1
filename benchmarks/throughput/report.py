"""Results of the throughput benchmark as records, table and plot."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from benchmarks.measure.timing import Spread, bars
from benchmarks.measure.trace import trace_lines

PAPER_SHAPE = (16, 64, 25)
"""Batch size, batch length and imagination length of the paper."""


class Record:
    """A dataclass that converts to JSON."""

    def record(self) -> dict[str, Any]:
        """The fields, with spreads as dicts."""
        return {
            field.name: _plain(getattr(self, field.name))
            for field in dataclasses.fields(self)  # pyright: ignore
        }


def _plain(value: Any) -> Any:
    if isinstance(value, Spread):
        return value._asdict()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return value


@dataclasses.dataclass(frozen=True)
class UpdateTimes(Record):
    """One update: seconds by phase; FLOPs of the matrix products without penalty."""

    size: str
    batch_size: int
    batch_length: int
    imagination_length: int
    dtype: str
    seconds: Spread
    seconds_with_penalty: Spread
    phases: dict[str, Spread]
    flops: int
    product_flops: float
    peak_bytes: int | None
    compile_seconds: float
    warm_seconds: float

    @property
    def share(self) -> float:
        """FLOP/s of the update's matrix products / FLOP/s of a large product."""
        return self.flops / self.seconds.median / self.product_flops


@dataclasses.dataclass(frozen=True)
class SeedTimes(Record):
    """An update of `count` agents in one program. `ratio` is time per agent over
    that of an update of a single run (a program without the axis over agents)."""

    size: str
    count: int
    seconds: Spread
    ratio: Spread


@dataclasses.dataclass(frozen=True)
class LoopTimes(Record):
    """The whole training loop; shares are of its wall-clock time."""

    preset: str
    size: str
    env: str
    updates_per_second: float
    env_steps_per_second: float
    decisions_per_second: float
    chunk_seconds: Spread
    collect_share: Spread
    replay_share: Spread
    host_share: float
    compile_seconds: float
    peak_bytes: int | None

    @property
    def outside_share(self) -> float:
        """Share of the loop's time outside of updates: acting, replay, Python."""
        return self.collect_share.median + self.replay_share.median + self.host_share


def table(
    updates: Sequence[UpdateTimes], seeds: Sequence[SeedTimes], loop: LoopTimes
) -> str:
    """All results as text."""
    lines = []
    for found in updates:
        lines += [
            f"update at {found.size}, {found.batch_size}x{found.batch_length}, "
            f"imagination {found.imagination_length}: "
            f"{_ms(found.seconds)} ({_ms(found.seconds_with_penalty)} with penalty)",
            f"  {found.flops / 1e9:.0f} GFLOP in products at "
            f"{found.flops / found.seconds.median / 1e9:.0f} GFLOP/s, "
            f"{100 * found.share:.0f}% of a {found.product_flops / 1e9:.0f} GFLOP/s "
            f"product; compiled in {found.compile_seconds:.0f} s, "
            f"{found.warm_seconds:.0f} s from the cache" + _memory(found.peak_bytes),
        ]
        for name, spread in found.phases.items():
            part = spread.median / found.seconds.median
            lines.append(f"    {name:18} {_ms(spread):>26} {100 * part:4.0f}%")
    for found in seeds:
        lines.append(
            f"{found.count} seeds at {found.size}: {_ms(found.seconds)} an update of "
            f"all, {found.ratio.median:.2f} of {found.count} single ones"
        )
    lines += [
        f"loop, preset {loop.preset} ({loop.size}, {loop.env}): "
        f"{loop.updates_per_second:.1f} updates/s, "
        f"{loop.env_steps_per_second:.0f} environment steps/s, "
        f"{loop.decisions_per_second:.0f} decisions/s",
        f"  of its time: acting {100 * loop.collect_share.median:.1f}%, "
        f"replay {100 * loop.replay_share.median:.1f}%, "
        f"Python {100 * loop.host_share:.2f}%, together "
        f"{100 * loop.outside_share:.1f}%; compiled in "
        f"{loop.compile_seconds:.0f} s" + _memory(loop.peak_bytes),
    ]
    return "\n".join(lines)


def trace_table(found: Mapping[str, Any]) -> str:
    """A profiler trace by scope and kind, from `benchmarks.measure.trace.summary`.

    With several threads the sum over kinds can exceed the elapsed time.
    """
    each = 1e3 / found["updates"]
    lines = [
        f"trace of an update: {each * found['span_seconds']:.1f} ms, "
        f"{100 * found['busy_share']:.0f}% busy"
    ]
    kinds = [(f"{kind['scope']} {kind['name']}", kind) for kind in found["kinds"]]
    lines += trace_lines(found["scopes"].items(), found["updates"])
    lines.append("  longest operations:")
    return "\n".join(lines + trace_lines(kinds, found["updates"]))


def draw(
    updates: Sequence[UpdateTimes], seeds: Sequence[SeedTimes], loop: LoopTimes
) -> Figure:
    """Plot an update by phase, the time per agent, and the loop's shares."""
    figure = Figure(figsize=(11, 4), dpi=150, layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.7, 1, 0.9))
    names = list(updates[0].phases)
    for row, found in enumerate(updates):
        start = 0.0
        for index, name in enumerate(names):
            part = max(found.phases[name].median, 0.0)
            share = part / found.seconds.median
            label = name if row == 0 else None
            left.barh(row, share, 0.6, left=start, color=f"C{index}", label=label)
            if share > 0.08:
                text = f"{1e3 * part:.0f}"
                left.text(start + share / 2, row, text, ha="center", va="center")
            start += share
    left.set_yticks(
        range(len(updates)),
        [f"{found.size}\n{1e3 * found.seconds.median:.0f} ms" for found in updates],
    )
    left.set_ylim(len(updates) - 0.5, -0.5)
    left.set_xlabel("share of an update without penalty (labels: milliseconds)")
    place = (0.5, -0.2)
    left.legend(fontsize="small", loc="upper center", ncols=3, bbox_to_anchor=place)
    left.set_title("one update by phase")
    counts = [found.count for found in seeds]
    middle.errorbar(
        counts,
        [found.ratio.median for found in seeds],
        bars(found.ratio for found in seeds),
        marker="o",
        capsize=3,
    )
    middle.axhline(1.0, color="0.6", linewidth=0.8)
    middle.set_xticks(counts)
    middle.set_ylim(0, None)
    middle.set_xlabel(f"agents in one program ({seeds[0].size})")
    middle.set_title("time per agent / single run")
    shares = {
        "updates": 1 - loop.outside_share,
        "acting": loop.collect_share.median,
        "replay": loop.replay_share.median,
        "Python": loop.host_share,
    }
    drawn = right.bar(list(shares), [100 * share for share in shares.values()])
    right.bar_label(drawn, fmt="%.1f%%")
    right.set_ylim(0, 110)
    right.set_title(f"the loop, preset {loop.preset}")
    right.set_ylabel("% of its time")
    return figure


def _ms(spread: Spread) -> str:
    low, high = 1e3 * spread.low, 1e3 * spread.high
    return f"{1e3 * spread.median:.1f} ms ({low:.1f}-{high:.1f})"


def _memory(peak: int | None) -> str:
    return "" if peak is None else f"; {peak / 1e6:.0f} MB of temporaries"
