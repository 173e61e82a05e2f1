"""How fast training is, and where its time goes.

    python -m benchmarks.throughput [--size 1m,12m] [--seeds 1,4,8] [--quick]
        [--profile DIR] [--json OUT] [--png OUT]

Three questions. The update: seconds of one optimizer step at the shapes of the GPLD
paper (16 sequences of 64 steps, imagination 25), by phase, as differences between
programs that leave a phase out, and the share of this machine's own matrix rate that
its matrix products reach. The seeds: several agents in one program against one. The
loop: what the default preset here does from decision to log line.

Programs that are compared run in turn, and every update is one of several in a program,
as in training.
"""

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.op import product_program
from benchmarks.op_report import PRODUCT
from benchmarks.throughput_programs import Loop, Program, Update
from benchmarks.throughput_report import LoopTimes, SeedTimes, UpdateTimes, draw, table
from benchmarks.timing import Spread, interleave
from train.config import Config
from train.errors import UserError
from train.log import Logger
from train.loop import log_metrics
from train.presets import build, preset_values
from train.provenance import write_result
from train.sizes import SIZES

Say = Callable[[str], None]


def timed(
    programs: dict[str, Program], rounds: int, say: Say
) -> dict[str, list[float]]:
    """Seconds of one repeat of each program, and of a square product, by round."""
    run: dict[str, Callable[[], object]] = {
        name: lambda program=program: jax.block_until_ready(program.call())
        for name, program in programs.items()
    }
    run["product"] = product_program(jax.random.key(0))
    seconds = interleave(
        run, rounds=rounds, progress=lambda done: say(f"round {done}/{rounds}")
    )
    for name, program in programs.items():
        seconds[name] = [s / program.times for s in seconds[name]]
    return seconds


def measure_update(config: Config, *, times: int, rounds: int, say: Say) -> UpdateTimes:
    """One update and its phases."""
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
        say(f"{config.size}: compiled {name}")
    seconds = timed(programs, rounds, lambda text: say(f"{config.size}: {text}"))

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
        product_flops=2 * PRODUCT**3 / float(np.median(seconds["product"])),
        peak_bytes=whole.peak_bytes,
        compile_seconds=whole.compile_seconds,
        warm_seconds=warm_seconds(parts),
    )


def warm_seconds(parts: Update) -> float:
    """Seconds to compile the update again with a filled compilation cache."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        try:
            jax.config.update(names[0], folder)
            jax.config.update(names[1], 0.0)
            for _ in range(2):
                jax.clear_caches()
                seconds = parts.whole(parts.penalty).compile_seconds
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
    return seconds


def measure_seeds(
    config: Config, counts: Sequence[int], *, times: int, rounds: int, say: Say
) -> list[SeedTimes]:
    """An update of several agents in one program, against one agent's."""
    parts = Update(config, times)
    programs = {}
    for count in dict.fromkeys((1, *counts)):
        programs[str(count)] = parts.seeds(count)
        say(f"{config.size}: compiled {count} seeds")
    seconds = timed(programs, rounds, lambda text: say(f"{config.size} seeds: {text}"))
    found = []
    for name, each in seconds.items():
        if name == "product":
            continue
        count = int(name)
        pairs = zip(each, seconds["1"], strict=True)
        ratio = Spread.of([several / count / one for several, one in pairs])
        found.append(SeedTimes(config.size, count, Spread.of(each), ratio))
    return found


def measure_loop(config: Config, *, rounds: int, say: Say) -> LoopTimes:
    """A chunk of training, and what in it is not an update."""
    loop = Loop(config)
    say("loop: filled the replay")
    programs = {}
    for name in ("chunk", "collect", "sample"):
        programs[name] = getattr(loop, name)()
        say(f"loop: compiled {name}")
    seconds = timed(programs, rounds, lambda text: say(f"loop: {text}"))
    chunk = Spread.of([s * loop.updates for s in seconds["chunk"]])
    _, output = programs["chunk"].call()  # pyright: ignore[reportGeneralTypeIssues]
    host = host_seconds(config, output)

    def share(name: str) -> Spread:
        rows = zip(seconds[name], seconds["chunk"], strict=True)
        return Spread.of([part / whole for part, whole in rows])

    steps = loop.decisions * config.action_repeat
    return LoopTimes(
        preset=config.preset,
        size=config.size,
        env=config.env,
        updates_per_second=loop.updates / chunk.median,
        env_steps_per_second=steps / chunk.median,
        decisions_per_second=loop.decisions / chunk.median,
        collect_share=share("collect"),
        replay_share=share("sample"),
        host_share=host / (chunk.median + host),
        compile_seconds=programs["chunk"].compile_seconds,
        peak_bytes=programs["chunk"].peak_bytes,
    )


def host_seconds(config: Config, output: Any, repeats: int = 20) -> float:
    """Seconds that Python takes between two chunks: fetching and logging."""
    with tempfile.TemporaryDirectory() as folder:
        logger = Logger(Path(folder), total_steps=config.steps, seeds=config.seeds)
        with logger:
            start = time.perf_counter()
            for number in range(repeats):
                fetched = jax.tree.map(np.asarray, output)
                logger.write(number, log_metrics(config, fetched))
            return (time.perf_counter() - start) / repeats


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 2 for an error of the user's."""
    options = _parser().parse_args(argv)
    begun = time.perf_counter()

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - begun:4.0f} s] {text}", flush=True)

    try:
        sizes, seeds = _sizes(options.size), _counts("--seeds", options.seeds)
        times = options.times or 2
        rounds = options.rounds or (2 if options.quick else 7)
        what = "a check of the machinery" if options.quick else "a measurement"
        if options.quick:
            sizes, seeds = sizes[:1], seeds[:2]
        if options.profile is not None:
            profile(_paper(sizes[0], quick=options.quick), options.profile, say)
        updates = [
            measure_update(
                _paper(size, quick=options.quick), times=times, rounds=rounds, say=say
            )
            for size in sizes
        ]
        vmapped = measure_seeds(
            _paper(sizes[0], quick=options.quick),
            seeds,
            times=times,
            rounds=rounds,
            say=say,
        )
        preset = "smoke" if options.quick else "auto"
        config = build(preset_values(preset, platform=jax.default_backend()))
        config = dataclasses.replace(config, env="walker-walk", replay_size=50_000)
        loop = measure_loop(config, rounds=rounds, say=say)
        print(table(updates, vmapped, loop))
        if options.quick:
            print("--quick: small shapes, a check of the machinery, no measurement")
        if options.json is not None:
            result = {
                "what": what,
                "rounds": rounds,
                "updates": [found.record() for found in updates],
                "seeds": [found.record() for found in vmapped],
                "loop": loop.record(),
            }
            write_result(options.json, result)
            print(f"wrote {options.json}")
        if options.png is not None:
            options.png.parent.mkdir(parents=True, exist_ok=True)
            draw(updates, vmapped, loop).savefig(options.png)
            print(f"drew {options.png}")
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def profile(config: Config, folder: Path, say: Say) -> None:
    """Writes a trace of a few updates that TensorBoard and Perfetto open."""
    parts = Update(config, 2)
    program = parts.whole(parts.penalty)
    jax.block_until_ready(program.call())
    with jax.profiler.trace(str(folder)):
        jax.block_until_ready(program.call())
    say(f"wrote a trace to {folder}; open it with: tensorboard --logdir {folder}")


def _paper(size: str, *, quick: bool) -> Config:
    values = preset_values("gpld", platform=jax.default_backend()) | {"--size": size}
    if quick:
        values |= {"--batch-size": 4, "--batch-length": 8, "--imagination-length": 4}
    return dataclasses.replace(build(values), env="walker-walk")


def _sizes(text: str) -> list[str]:
    sizes = text.split(",")
    for size in sizes:
        if size not in SIZES:
            raise UserError(f"--size {size}: allowed: {', '.join(SIZES)}")
    return sizes


def _counts(flag: str, text: str) -> list[int]:
    try:
        counts = [int(word) for word in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise UserError(f"{flag} {text}: allowed: counts such as 1,4,8")
    return counts


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput",
        description="Time an update by phase, vmapped seeds, and the whole loop.",
    )
    parser.add_argument("--size", default="1m,12m", metavar="A,B")
    parser.add_argument("--seeds", default="1,4,8", metavar="A,B")
    parser.add_argument("--times", type=int, help="updates in a program (default 2)")
    parser.add_argument("--rounds", type=int, help="rounds that count (default 7)")
    parser.add_argument("--quick", action="store_true", help="small shapes, few rounds")
    parser.add_argument("--profile", type=Path, metavar="DIR", help="write a trace too")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--png", type=Path, metavar="OUT")
    return parser


if __name__ == "__main__":
    sys.exit(main())
