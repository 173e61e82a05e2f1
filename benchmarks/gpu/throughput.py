"""The parts of ``python -m benchmarks.gpu --stage throughput``: one update's time.

First the update beside the floors it could come near to, what the device did in it
(a profiler's trace) and its phases; then XLA's flags, each against the same program
compiled as usual; then several agents in one program.
"""

import dataclasses
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.gpu.overhead import settings, tiny
from benchmarks.gpu.parts import Clock, Entries, Part, differing, items
from benchmarks.measure import trace
from benchmarks.measure.program import Program
from benchmarks.measure.timing import Spread, ratios
from benchmarks.throughput.measure import timed
from benchmarks.throughput.programs import Update
from train.config import Config

TIMES, ROUNDS = 4, 9
ITEM_SECONDS = 45.0
"""No item is begun with less time left than this: compiling it may take that long."""
TRACE_BYTES = 8 << 20
"""A trace file larger than this is summed up and not kept."""

TARGETS = {
    "target": 10e-3,
    "floor with loops in command buffers": 9e-3,
    "floor with a kernel for the whole sequence": 4.5e-3,
    "floor of the arithmetic alone": 1.5e-3,
}
"""Seconds of a 12M update in bfloat16 on an H200: what is aimed at, and estimates of
what it could be at best, made before anything was measured there."""

_ALL = "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION"
COMMAND_BUFFERS: dict[str, dict[str, Any]] = {
    "loops in command buffers, unrolled": {
        "xla_gpu_enable_command_buffer": f"{_ALL},WHILE,CONDITIONAL",
        "xla_gpu_command_buffer_unroll_loops": True,
    },
    "loops outside of command buffers": {"xla_gpu_enable_command_buffer": _ALL},
    "no command buffers": {"xla_gpu_enable_command_buffer": ""},
}
SCHEDULING: dict[str, dict[str, Any]] = {
    "latency-hiding scheduler": {"xla_gpu_enable_latency_hiding_scheduler": True},
    "loops double-buffered": {"xla_gpu_enable_while_loop_double_buffering": True},
    "no Triton products": {"xla_gpu_enable_triton_gemm": False},
}


def step(
    clock: Clock,
    folder: Path,
    *,
    config: Callable[[], Config] = settings,
    times: int = TIMES,
    rounds: int = ROUNDS,
    item_seconds: float = ITEM_SECONDS,
) -> Entries:
    """An update with and without penalty, its trace, its phases."""
    parts = Update(config(), times)
    built: dict[str, Program] = {}

    def penalized() -> dict[str, Any]:
        # By itself first: the number wanted most, whatever comes of the other program.
        program = built["with penalty"] = parts.whole(parts.penalty)
        seconds, _ = timed({"with penalty": program}, rounds, print)
        return {"programs": _programs(built, seconds)}

    def update() -> dict[str, Any]:
        built["update"] = parts.whole(None)
        seconds, rate = timed(built, rounds, print)
        whole = statistics.median(seconds["with penalty"])
        comparable = (
            (parts.config.size, parts.bench.dtype) == ("12m", jnp.bfloat16)
            # What is aimed at is so for that device only.
            and "H200" in jax.devices()[0].device_kind
        )
        return {
            "size": parts.config.size,
            "dtype": parts.bench.dtype.name,
            "batch_size": parts.config.batch_size,
            "batch_length": parts.config.batch_length,
            "imagination_length": parts.config.imagination_length,
            "penalty": parts.penalty and dataclasses.asdict(parts.penalty),
            "programs": _programs(built, seconds),
            "overhead": ratios(seconds["with penalty"], seconds["update"])._asdict(),
            "updates_in_a_program": times,
            "product_flops_per_second": rate,
            "share_of_product": built["with penalty"].flops / whole / rate,
            "targets_seconds": TARGETS,
            "over_targets": {name: whole / goal for name, goal in TARGETS.items()}
            if comparable
            else {},
        }

    def traced() -> dict[str, Any]:
        program = built["with penalty"]
        with tempfile.TemporaryDirectory() as scratch:
            found = trace.traced(program.call, program.text(), Path(scratch))
            path = trace.newest(Path(scratch))
            kept = path.stat().st_size <= TRACE_BYTES
            if kept:
                shutil.copyfile(path, folder / "gpu_throughput.trace.json.gz")
        # XLA takes command buffers apart while a profiler is watching.
        return {"updates": times, "trace_kept": kept, "trace": found}

    def phases() -> dict[str, Any]:
        parts_of_it = {
            "update": built["update"],
            "gradient": parts.gradient(),
            "world model": parts.world_model(),
            "imagination": parts.imagination(),
        }
        seconds, _ = timed(parts_of_it, rounds, print)
        return {"programs": _programs(parts_of_it, seconds)}

    def in_steps() -> dict[str, Any]:
        """The heads in each imagined step, as on a CPU, against all states at once."""
        other = parts.whole(parts.penalty, heads_at_once=False)
        programs = {"at once": built["with penalty"], "in each step": other}
        seconds, _ = timed(programs, rounds, print)
        ratio = ratios(seconds["in each step"], seconds["at once"])
        return {
            "over_heads_at_once": ratio._asdict(),
            "programs": _programs(programs, seconds),
        }

    work = {"with penalty": penalized, "update": update}
    work |= {"trace": traced, "phases": phases, "heads in each step": in_steps}
    return items(work, clock, item_seconds)


def flags(
    sets: Mapping[str, Mapping[str, Any]],
    clock: Clock,
    *,
    config: Callable[[], Config] = settings,
    times: int = TIMES,
    rounds: int = ROUNDS,
    item_seconds: float = ITEM_SECONDS,
) -> Entries:
    """Each set of XLA's flags against the same program compiled without them."""
    parts = Update(config(), times)
    usual = parts.whole(parts.penalty)

    def one(name: str) -> dict[str, Any]:
        programs = {"as usual": usual, name: parts.whole(parts.penalty, sets[name])}
        seconds, _ = timed(programs, rounds, print)
        results = [program.call() for program in programs.values()]
        return {
            "flags": dict(sets[name]),
            "ratio": ratios(seconds[name], seconds["as usual"])._asdict(),
            "same_bits": differing(*results) == [],
            "programs": _programs(programs, seconds),
        }

    return items({name: partial(one, name) for name in sets}, clock, item_seconds)


def seeds(
    counts: Iterable[int],
    clock: Clock,
    *,
    config: Callable[[], Config] = settings,
    times: int = TIMES,
    rounds: int = ROUNDS,
    item_seconds: float = ITEM_SECONDS,
) -> Entries:
    """Several agents in one program against one, which is the update as it is."""
    parts = Update(config(), times)
    one = parts.whole(parts.penalty)

    def several(count: int) -> dict[str, Any]:
        programs = {"1": one, str(count): parts.seeds(count)}
        seconds, _ = timed(programs, rounds, print)
        ratio = ratios(seconds[str(count)], seconds["1"])
        return {
            "count": count,
            "over_one_run": ratio._asdict(),
            "updates_per_second": count / statistics.median(seconds[str(count)]),
            "programs": _programs(programs, seconds),
        }

    work = {f"{count} agents": partial(several, count) for count in counts}
    return items(work, clock, item_seconds)


def _programs(
    programs: Mapping[str, Program], seconds: Mapping[str, list[float]]
) -> dict[str, Any]:
    return {
        name: {
            "seconds": Spread.of(seconds[name])._asdict(),
            "compile_seconds": program.compile_seconds,
            "peak_bytes": program.peak_bytes,
            "flops": program.flops,
        }
        for name, program in programs.items()
    }


_REHEARSAL: dict[str, Any] = {
    "config": tiny,
    "times": 2,
    "rounds": 2,
    "item_seconds": 0.0,
}
PARTS = {
    "step": Part(step, 230, partial(step, **_REHEARSAL), files=True),
    "command buffers": Part(
        partial(flags, COMMAND_BUFFERS),
        130,
        partial(flags, dict(list(COMMAND_BUFFERS.items())[:1]), **_REHEARSAL),
    ),
    "scheduling": Part(
        partial(flags, SCHEDULING),
        75,
        partial(flags, dict(list(SCHEDULING.items())[:1]), **_REHEARSAL),
    ),
    "seeds": Part(partial(seeds, (8, 4)), 85, partial(seeds, (2,), **_REHEARSAL)),
}
"""520 seconds in all. Flags that a driver does not support may end a process: those of
command buffers have one of their own."""
