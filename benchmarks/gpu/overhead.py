"""The train step with and without the penalty on a GPU: the stage `overhead`.

The rows of `benchmarks.overhead` that matter most, in that order, each against the step
without penalty in turn. Steps are dispatched without waiting for one another, as a
training loop does, and timed ten at a time.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax

from benchmarks.gpu.parts import Clock, Entries, Part, items
from benchmarks.measure.timing import Spread, interleave, ratios
from benchmarks.overhead.rows import Variant
from benchmarks.overhead.steps import Bench, Program
from train.config import Config
from train.config.presets import build, preset_values

STEPS = 10
ROUNDS = 9
ITEM_SECONDS = 60.0
"""No row is begun with less time left: compiling one step may take that long."""

XLA_ROWS = (
    Variant("xla", "posterior", 0.5, "rademacher", 1),
    Variant("xla", "posterior", 1.0, "rademacher", 1),
    Variant("xla", "posterior", 1.0, "exact", None),
    Variant("xla", "posterior", 1.0, "hadamard", 4),
    Variant("xla", "prior", 0.5, "rademacher", 1),
    Variant("xla", "core", 0.5, "rademacher", 1),
    Variant("reference", "posterior", 0.5, "rademacher", 1),
)
PALLAS_ROWS = (
    Variant("pallas", "posterior", 0.5, "rademacher", 1),
    Variant("pallas", "posterior", 1.0, "rademacher", 1),
    Variant("pallas", "posterior", 1.0, "exact", None),
)


def settings(size: str = "12m") -> Config:
    """The paper's configuration in bfloat16."""
    values = preset_values("gpld", platform="gpu") | {"--size": size}
    return dataclasses.replace(build(values), env="walker-walk")


def steps(
    rows: Sequence[Variant],
    clock: Clock,
    *,
    config: Callable[[], Config] = settings,
    rounds: int = ROUNDS,
    calls: int = STEPS,
    item_seconds: float = ITEM_SECONDS,
    bench: Bench | None = None,
    kept: dict[str, Program] | None = None,
) -> Entries:
    """Every row against the step without penalty.

    Args:
        bench: of this configuration, if there is one already.
        kept: takes the compiled programs by name, and has those of an earlier call.
    """
    bench = bench or Bench(config())
    kept = {} if kept is None else kept
    if "none" not in kept:
        kept["none"] = bench.compile(None)
    plain = kept["none"]

    def several(fn: Callable[[], Any]) -> Callable[[], object]:
        return lambda: jax.block_until_ready([fn() for _ in range(calls)][-1])

    def entry(row: Variant) -> dict[str, Any]:
        compiled = kept[row.name] = bench.compile(row.options)
        programs = {"none": plain, row.name: compiled}
        seconds = interleave(
            {name: several(program.call) for name, program in programs.items()},
            rounds=rounds,
        )
        each = {name: [s / calls for s in found] for name, found in seconds.items()}
        return {
            "row": row._asdict(),
            "step_ratio": ratios(each[row.name], each["none"])._asdict(),
            "programs": {
                name: {
                    "seconds": Spread.of(each[name])._asdict(),
                    "compile_seconds": program.seconds,
                    "peak_bytes": program.peak_bytes,
                    "flops": program.flops,
                }
                for name, program in programs.items()
            },
        }

    work = {row.name: partial(entry, row) for row in rows}
    return items(work, clock, item_seconds)


def tiny() -> Config:
    """The same at sizes for a rehearsal."""
    return build(preset_values("smoke", platform=jax.default_backend()))


PARTS = {
    "xla": Part(
        partial(steps, XLA_ROWS),
        330,
        partial(steps, XLA_ROWS[:1], config=tiny, rounds=2, calls=2, item_seconds=0.0),
    ),
    "pallas": Part(partial(steps, PALLAS_ROWS), 190),
}
"""A kernel that was never run may hang: it has a process of its own."""
