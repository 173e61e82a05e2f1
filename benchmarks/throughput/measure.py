"""The measurements of the throughput benchmark: an update, seeds, the loop.

Programs run in interleaved rounds together with a large matrix product, which measures
the machine's FLOP/s at the same time.
"""

import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import rich.console
from jax.experimental.compilation_cache import compilation_cache

from benchmarks.measure import trace
from benchmarks.measure.device_time import product_chain
from benchmarks.measure.program import Program
from benchmarks.measure.timing import Spread, interleave
from benchmarks.overhead.op.measure import product_program
from benchmarks.overhead.op.report import PRODUCT
from benchmarks.throughput.programs import Loop, Update
from benchmarks.throughput.report import LoopTimes, SeedTimes, UpdateTimes
from train.config import Config
from train.loop import log_metrics
from train.run_dir.metrics.logger import Logger

COMPILE_SECONDS = 15.0
"""Rough compile time of a program on two cores, used only to estimate time left."""

_CACHE_OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
)


class Progress:
    """Print progress with the elapsed time and an estimate of the time left.

    Work is measured in expected seconds; the time left is scaled by the elapsed time
    of the completed work.

    Args:
        expected: total work, in expected seconds.
    """

    def __init__(self, expected: float) -> None:
        self._begun = time.perf_counter()
        self._expected, self._done = expected, 0.0

    def __call__(self, text: str, work: float) -> None:
        """Print that `text` is done, and add its `work` in expected seconds."""
        self._done += work
        spent = time.perf_counter() - self._begun
        left = max(self._expected - self._done, 0.0) * spent / max(self._done, 1e-9)
        print(
            f"[{spent:4.0f} s] {text}; about {left / 60:.0f} min left"
            if left >= 90
            else f"[{spent:4.0f} s] {text}; about {left:.0f} s left",
            flush=True,
        )


def step_seconds(config: Config) -> float:
    """Rough seconds of an update on two cores, used only to estimate time left."""
    imagined = config.starts_of_sequence * config.imagination_length
    states = config.batch_size * (config.batch_length + imagined)
    return 2.3 * (config.model.deter / 2048) ** 1.5 * states / (16 * 64 * 26)


def update_work(config: Config, *, times: int, rounds: int) -> float:
    """Expected seconds of `measure_update`."""
    return 7 * COMPILE_SECONDS + (rounds + 1) * _update_round(config, times)


def _update_round(config: Config, times: int) -> float:
    return 3.7 * times * step_seconds(config)  # two updates plus their parts


def seeds_work(
    config: Config, counts: Sequence[int], *, times: int, rounds: int
) -> float:
    """Expected seconds of `measure_seeds`."""
    work = (rounds + 1) * _seeds_round(config, counts, times)
    return len({1, *counts}) * COMPILE_SECONDS + work


def _seeds_round(config: Config, counts: Sequence[int], times: int) -> float:
    return sum({1, *counts}) * times * step_seconds(config)


def loop_work(config: Config, *, rounds: int) -> float:
    """Expected seconds of `measure_loop`."""
    # The simulation compiles more slowly than the networks.
    return 6 * COMPILE_SECONDS + (rounds + 1) * _loop_round(config)


def _loop_round(config: Config) -> float:
    return Loop.updates_of(config) * step_seconds(config)


def product() -> tuple[Callable[[], object], int]:
    """A large matrix product and its FLOPs per call.

    One float32 product on a CPU; a chain of eight bfloat16 products elsewhere.
    """
    if jax.default_backend() == "cpu":
        return product_program(jax.random.key(0)), 2 * PRODUCT**3
    size, calls = 8192, 8
    return product_chain(size, calls), 2 * size**3 * calls


def timed(
    programs: dict[str, Program], rounds: int, say: Callable[[int], None]
) -> tuple[dict[str, list[float]], float]:
    """Seconds per repeat of each program in each round, and the product's FLOP/s."""
    run: dict[str, Callable[[], object]] = {
        name: lambda program=program: jax.block_until_ready(program.call())
        for name, program in programs.items()
    }
    run["product"], operations = product()
    seconds = interleave(run, rounds=rounds, progress=say)
    rate = operations / float(np.median(seconds.pop("product")))
    for name, program in programs.items():
        seconds[name] = [s / program.times for s in seconds[name]]
    return seconds, rate


def measure_update(
    config: Config, *, times: int, rounds: int, progress: Progress
) -> UpdateTimes:
    """Time one update and its phases."""
    parts = Update(config, times)
    programs = {}
    for name, make in {
        "with penalty": lambda: parts.whole(parts.penalty),
        "update": lambda: parts.whole(None),
        "gradient": parts.gradient,
        "world model": parts.world_model,
        "imagination": parts.imagination,
    }.items():
        programs[name] = make()
        progress(f"{config.size}: compiled {name}", COMPILE_SECONDS)
    warm = warm_seconds(parts)
    progress(f"{config.size}: compiled again from the cache", 2 * COMPILE_SECONDS)
    work = _update_round(config, times)
    seconds, rate = timed(
        programs,
        rounds,
        lambda done: progress(f"{config.size}: round {done}/{rounds}", work),
    )

    def difference(name: str, *less: str) -> Spread:
        columns = [seconds[other] for other in less]
        rows = zip(seconds[name], *columns, strict=True)
        return Spread.of([first - sum(rest) for first, *rest in rows])

    whole = programs["with penalty"]
    return UpdateTimes(
        size=config.size,
        batch_size=config.batch_size,
        batch_length=config.batch_length,
        imagination_length=config.imagination_length,
        dtype=parts.bench.dtype.name,
        seconds=Spread.of(seconds["update"]),
        seconds_with_penalty=Spread.of(seconds["with penalty"]),
        phases={
            "world model": Spread.of(seconds["world model"]),
            "imagination": Spread.of(seconds["imagination"]),
            "actor and critic": difference("gradient", "world model", "imagination"),
            "optimizer": difference("update", "gradient"),
            "penalty": difference("with penalty", "update"),
        },
        flops=programs["update"].flops,
        product_flops=rate,
        peak_bytes=whole.peak_bytes,
        compile_seconds=whole.compile_seconds,
        warm_seconds=warm,
    )


def measure_seeds(
    config: Config,
    counts: Sequence[int],
    *,
    times: int,
    rounds: int,
    progress: Progress,
) -> list[SeedTimes]:
    """Time an update of several agents in one program, against that of one run."""
    parts = Update(config, times)
    programs = {"one run": parts.whole(parts.penalty)}
    for count in dict.fromkeys(counts):
        programs[str(count)] = parts.seeds(count)
        progress(f"{config.size}: compiled {count} seeds", COMPILE_SECONDS)
    work = _seeds_round(config, counts, times)
    seconds, _ = timed(
        programs,
        rounds,
        lambda done: progress(f"{config.size} seeds: round {done}/{rounds}", work),
    )
    found = []
    one_run = seconds.pop("one run")
    for name, each in seconds.items():
        count = int(name)
        pairs = zip(each, one_run, strict=True)
        ratio = Spread.of([several / count / one for several, one in pairs])
        found.append(SeedTimes(config.size, count, Spread.of(each), ratio))
    return found


def measure_loop(config: Config, *, rounds: int, progress: Progress) -> LoopTimes:
    """Time a chunk of training, and its parts other than updates."""
    loop = Loop(config)
    progress("loop: filled the replay", 2 * COMPILE_SECONDS)
    programs = {}
    for name, work in {"chunk": 2.5, "collect": 1.0, "sample": 0.5}.items():
        programs[name] = getattr(loop, name)()
        progress(f"loop: compiled {name}", work * COMPILE_SECONDS)
    work = _loop_round(config)
    seconds, _ = timed(
        programs, rounds, lambda done: progress(f"loop: round {done}/{rounds}", work)
    )
    chunk = Spread.of([s * loop.updates for s in seconds["chunk"]])
    _, output = programs["chunk"].call()  # pyright: ignore[reportGeneralTypeIssues]
    host = host_seconds(config, jax.block_until_ready(output))

    def share(name: str) -> Spread:
        """The part's share of the loop's time: the chunk plus Python after it."""
        rows = zip(seconds[name], seconds["chunk"], strict=True)
        after = host / loop.updates
        return Spread.of([part / (whole + after) for part, whole in rows])

    whole = chunk.median + host
    return LoopTimes(
        preset=config.preset,
        size=config.size,
        env=config.env,
        updates_per_second=loop.updates / whole,
        env_steps_per_second=loop.decisions * config.action_repeat / whole,
        decisions_per_second=loop.decisions / whole,
        chunk_seconds=chunk,
        collect_share=share("collect"),
        replay_share=share("sample"),
        host_share=host / whole,
        compile_seconds=programs["chunk"].compile_seconds,
        peak_bytes=programs["chunk"].peak_bytes,
    )


def host_seconds(config: Config, output: Any, repeats: int = 20) -> float:
    """Seconds of Python between two chunks: fetching, logging, progress.

    Args:
        config: the run's configuration.
        output: a chunk's output, already computed.
        repeats: number of repetitions to average over.
    """
    console = rich.console.Console(file=io.StringIO())
    with tempfile.TemporaryDirectory() as folder:
        logger = Logger(Path(folder), total_steps=config.steps, console=console)
        with logger:
            logger.progress(0, 0)
            start = time.perf_counter()
            for number in range(1, repeats + 1):
                fetched = jax.tree.map(np.asarray, output)
                logger.write(number, log_metrics(config, fetched))
                logger.progress(number, number)
            return (time.perf_counter() - start) / repeats


def warm_seconds(parts: Update) -> float:
    """Seconds to compile the update with a warm compilation cache."""
    with tempfile.TemporaryDirectory() as folder, cached_in(folder):
        parts.whole(parts.penalty)
        jax.clear_caches()
        return parts.whole(parts.penalty).compile_seconds


@contextlib.contextmanager
def cached_in(folder: str | None) -> Iterator[None]:
    """Use this folder as compilation cache in the context; None disables the cache."""
    before = {name: getattr(jax.config, name) for name in _CACHE_OPTIONS}
    try:
        jax.config.update(_CACHE_OPTIONS[0], folder)
        jax.config.update(_CACHE_OPTIONS[1], 0.0)
        compilation_cache.reset_cache()  # JAX reads the setting only once
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def profile(config: Config, folder: Path) -> dict[str, Any]:
    """Write a trace of two updates for TensorBoard or Perfetto; return its summary."""
    parts = Update(config, 2)
    program = parts.whole(parts.penalty)
    return {"updates": 2, **trace.traced(program.call, program.text(), folder)}
