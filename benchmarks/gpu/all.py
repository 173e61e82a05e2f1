"""The parts of ``python -m benchmarks.gpu --stage all``: one call for a lent GPU.

In the order of what is wanted most: is the kernel right and how fast is the op; updates
that were compiled without a GPU; the trainer itself; an update with every penalty, and
its launches beside those that were counted without a GPU; environments; several agents;
XLA's flags; determinism; the length of a turn of the recurrent loop. `--minutes` says
how long all may take: each part gets its share, and what those before it left.
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax

from benchmarks.gpu import ahead, determinism, env, kernel, learn, overhead, throughput
from benchmarks.gpu.compile.command import read_rows
from benchmarks.gpu.parts import Clock, Entries, Part, items
from benchmarks.measure import trace
from benchmarks.measure.timing import interleave, ratios
from benchmarks.overhead.op.cases import SHAPES, HeadShape
from benchmarks.overhead.rows import Variant
from benchmarks.overhead.steps import Bench
from benchmarks.throughput.programs import Update
from core.networks import recomputed
from train.config import Config

COUNTED = Path(__file__).parents[1] / "results" / "gpu-compile" / "after.json"
TRAIN = (
    "--env walker --penalty pallas --size 12m --require-gpu --steps 100000 "
    "--replay-size 100000 --log-every 400 --eval-every 100000 --save-every 100000"
)
TINY_TRAIN = "--preset smoke --env toy-target --penalty xla --steps 400"
ROWS = (
    Variant("pallas", "posterior", 0.5, "rademacher", 1),
    Variant("xla", "posterior", 0.5, "rademacher", 1),
    Variant("pallas", "posterior", 1.0, "exact", None),
    Variant("xla", "posterior", 1.0, "exact", None),
    Variant("pallas", "posterior", 1.0, "rademacher", 1),
    Variant("xla", "posterior", 1.0, "rademacher", 1),
)
BATCHES = (16, 256, 2048)
TINY = HeadShape(d=16, h=64, k=2, c=4)


def op(
    shape: HeadShape,
    clock: Clock,
    *,
    states: Iterable[int] = (512, 1024),
    calls: int = 64,
    item_seconds: float = 2 * kernel.ITEM_SECONDS,
) -> Entries:
    """The penalty op, value and gradients, in every implementation."""
    work = {
        f"N={n}": partial(kernel.time_op, shape, n, 0, gradient=True, calls=calls)
        for n in states
    }
    return items(work, clock, item_seconds)


def trainer(clock: Clock, *, words: str = TRAIN, spare: float = 10.0) -> Entries:
    """`train.main` itself, until the time is up: is it right, and how fast?"""

    def run() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as home:
            folder = Path(home)
            flags = [*words.split(), "--logdir", str(folder / "run")]
            code, said = learn.stopped_in_time(
                [sys.executable, "-m", "train.main", *flags],
                folder / "log",
                until_stop=clock() - 2 * spare,
                until_kill=clock() - spare / 2,
            )
            print(said)
            found = {
                "flags": words,
                "from_step": 0,
                "step": learn.last_step(folder / "run"),
                "ended": code,
                **learn.speed(folder / "run", 0),
                "records": records(folder / "run" / "metrics.jsonl"),
            }
            if not found["step"]:
                last = " | ".join(said.splitlines()[-4:])
                raise RuntimeError(f"nothing was logged, exit status {code}: {last}")
            return found

    return items({"train.main": run}, clock, spare)


def records(path: Path) -> list[dict[str, Any]]:
    """The first and the last record of a run's metrics."""
    if not path.is_file():
        return []
    whole = [line for line in path.read_text("utf-8").splitlines(True) if "\n" in line]
    return [json.loads(line) for line in dict.fromkeys([*whole[:1], *whole[-1:]])]


def update(
    size: str,
    clock: Clock,
    *,
    config: Callable[[], Config] | None = None,
    rows: Sequence[Variant] = ROWS,
    rounds: int = 7,
    calls: int = 5,
    item_seconds: float = 20.0,
) -> Entries:
    """The update of each row against the one without penalty, and a trace of one."""
    settings = config or partial(overhead.settings, size)
    bench, programs = Bench(settings()), {}

    def measured(rows: Iterable[Variant]) -> Entries:
        return overhead.steps(
            tuple(rows),
            clock,
            rounds=rounds,
            calls=calls,
            item_seconds=item_seconds,
            bench=bench,
            kept=programs,
        )

    def launches() -> dict[str, Any]:
        program = next(programs[row.name] for row in first if row.name in programs)
        with tempfile.TemporaryDirectory() as scratch:
            found = trace.traced(program.call, program.text, Path(scratch))
        # XLA takes CUDA graphs apart while a profiler is watching.
        name = f"update-{first[0].implementation}-{size}"
        return {"updates": 1, "trace": found, "compiled_without_gpu": counted(name)}

    first, others = rows[:1], rows[1:]
    yield from measured(first)
    yield from items({f"launches, {size}": launches}, clock, 0.0)
    yield from measured(others)


def counted(program: str) -> dict[str, Any] | None:
    """What was counted of a program without a GPU, to be compared; None if nothing."""
    if not COUNTED.is_file():
        return None
    row = next((row for row in read_rows(COUNTED) if row["program"] == program), None)
    return row and {name: row[name] for name in ("device", "launches", "model_ms")}


def updates_ahead(size: str, clock: Clock) -> Entries:
    """The updates of a size that were compiled without a GPU."""
    config = partial(overhead.settings, size)
    return ahead.updates(size, clock, config=config, counted=counted)


def turns(
    lengths: Iterable[int],
    clock: Clock,
    *,
    config: Callable[[], Config] = overhead.settings,
    times: int = throughput.TIMES,
    rounds: int = 7,
    item_seconds: float = 20.0,
) -> Entries:
    """Other numbers of steps in one turn of the recurrent loops than `CHUNK`."""
    parts = Update(config(), times)
    usual = parts.whole(parts.penalty)

    def one(length: int) -> dict[str, Any]:
        before = recomputed.CHUNK
        recomputed.CHUNK = length
        try:
            other = parts.whole(parts.penalty)
        finally:
            recomputed.CHUNK = before
        both = {"usual": usual, "other": other}
        seconds = interleave(
            {
                name: lambda p=program: jax.block_until_ready(p.call())
                for name, program in both.items()
            },
            rounds=rounds,
        )
        each = {name: [s / times for s in found] for name, found in seconds.items()}
        return {
            "steps_in_a_turn": length,
            "usual": recomputed.CHUNK,
            "ratio": ratios(each["other"], each["usual"])._asdict(),
            "seconds": statistics.median(each["other"]),
            "compile_seconds": other.compile_seconds,
        }

    work = {f"{length} steps a turn": partial(one, length) for length in lengths}
    return items(work, clock, item_seconds)


def environments(
    clock: Clock,
    *,
    task: str = "walker-walk",
    batches: Iterable[int] = BATCHES,
    item_seconds: float = 15.0,
    **options: Any,
) -> Entries:
    """Control steps a second."""
    work = {
        f"{task}, batch {batch}": partial(env.time_batch, task, batch, **options)
        for batch in batches
    }
    return items(work, clock, item_seconds)


_TINY: dict[str, Any] = {
    "config": overhead.tiny,
    "rounds": 2,
    "item_seconds": 0.0,
}
_FLAGS = dict(list(throughput.COMMAND_BUFFERS.items())[:2])
PARTS = {
    "checks": Part(kernel.checks, 80),
    "op": Part(
        partial(op, SHAPES["12m"]),
        30,
        partial(op, TINY, states=(4,), calls=2, item_seconds=0.0),
    ),
    "ahead-op": Part(ahead.ops, 45),
    "ahead-12m": Part(partial(updates_ahead, "12m"), 75),
    "ahead-train": Part(ahead.training, 50),
    "train": Part(trainer, 290, partial(trainer, words=TINY_TRAIN, spare=5.0)),
    "update-12m": Part(
        partial(update, "12m"),
        150,
        partial(update, "12m", rows=ROWS[1:2], calls=2, **_TINY),
    ),
    "ahead-1m": Part(partial(updates_ahead, "1m"), 40),
    "environments": Part(
        environments,
        50,
        partial(
            environments,
            task="pendulum-swingup",
            batches=(4,),
            item_seconds=0.0,
            rounds=2,
            seconds=0.01,
        ),
    ),
    "seeds": Part(
        partial(throughput.seeds, (4, 8), item_seconds=20.0),
        60,
        partial(throughput.seeds, (2,), times=2, **_TINY),
    ),
    "flags": Part(
        partial(throughput.flags, _FLAGS, item_seconds=20.0),
        50,
        partial(throughput.flags, dict(list(_FLAGS.items())[:1]), times=2, **_TINY),
    ),
    "determinism": Part(
        partial(determinism.updates, times=4, item_seconds=15.0),
        40,
        partial(determinism.updates, config=overhead.tiny, times=2, item_seconds=0.0),
    ),
    "turns": Part(partial(turns, (16, 4)), 50, partial(turns, (2,), times=2, **_TINY)),
}
"""Limits; `--minutes` ends after so many, and what was not begun comes next."""
