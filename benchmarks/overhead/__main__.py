"""Overhead of the penalty: the train step with and without it.

    python -m benchmarks.overhead [--quick] [--size 12m] [--json OUT] [--png OUT]
    python -m benchmarks.overhead --variance [--run DIR]    variance of the probes
    python -m benchmarks.overhead --profile DIR             time by part of the step
    python -m benchmarks.overhead --op                      the op alone

The counterpart of GPLD's Table 4. Every row is the whole optimizer step of
`train.program.update` on one batch, timed in rounds interleaved with the step without
penalty; ratios are taken within a round, of processor time on a CPU and of wall time on
a GPU. Memory is as reported by XLA.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from matplotlib.figure import Figure

import envs
from benchmarks.cli import Parser, command, count, publish
from benchmarks.overhead import profile as overhead_profile
from benchmarks.overhead import variance
from benchmarks.overhead.op import __main__ as op
from benchmarks.overhead.report import draw, record, table
from benchmarks.overhead.rows import Variant, variants
from benchmarks.overhead.steps import Bench, measure
from train.config import Config
from train.config.presets import build, preset_values
from train.errors import UserError
from train.preflight.setup import make_env
from train.program.state import init_agent
from train.rollout.scores import load_agents
from train.run_dir.record import read_run


class Outcome(NamedTuple):
    """Results for `--json`, the terminal and `--png`."""

    result: dict[str, Any]
    text: str
    draw: Callable[[], Figure]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "--op" in words:
        return op.main([word for word in words if word != "--op"])
    return command(_parser(), _run, words)


def _run(options: argparse.Namespace) -> None:
    run = measure_variance if options.variance else measure_steps
    if options.profile is not None:
        run = measure_profile
    publish(options, *run(options))


def measure_steps(options: argparse.Namespace) -> Outcome:
    """Step times with and without the penalty."""
    if options.run is not None:
        raise UserError(f"--run {options.run}: only with --variance")
    config = _config(options)
    rounds = options.rounds or (5 if options.quick else 12)
    rows = variants(
        classes=config.model.classes, every=options.all, quick=options.quick
    )
    baseline, found = measure(Bench(config), rows, rounds=rounds)
    text = table(baseline, found)
    return Outcome(record(config, baseline, found), text, lambda: draw(found))


def measure_profile(options: argparse.Namespace) -> Outcome:
    """Profiler traces of some steps, written to `--profile` and summarized by scope."""
    if options.variance or options.run is not None:
        raise UserError("--profile: not together with --variance and --run")
    config = _config(options)
    bench = Bench(config)

    def compiled(row: Variant | None) -> tuple[Callable[[], object], str]:
        program = bench.compile(row and row.options)
        return program.call, program.text

    rows = overhead_profile.programs(quick=options.quick)
    found = overhead_profile.measure(compiled, rows, options.profile)
    text = f"wrote traces: tensorboard --logdir {options.profile}"
    return Outcome(
        {"size": config.size, **overhead_profile.record(found)},
        f"{overhead_profile.table(found)}\n{text}",
        lambda: overhead_profile.draw(found),
    )


def measure_variance(options: argparse.Namespace) -> Outcome:
    """Variance of the probes, at random weights and at those of `--run` if given."""
    if options.run is None:
        config = build(
            preset_values("smoke" if options.quick else "laptop", platform="cpu")
        )
    else:
        config = read_run(options.run)
        if config.agents > 1:
            config = dataclasses.replace(config, seeds=1, sweep="")
    env = make_env(config)
    key = jax.random.key(config.seed)
    init = jax.jit(lambda key: init_agent(config, envs.VectorEnv(env, 1), key))
    agents = {"random": init(key)}
    step = 0
    if options.run is not None:
        step, trained = load_agents(options.run, read_run(options.run), env)
        agents["trained"] = trained[0]
    # Two episodes per environment are enough for the batches.
    rows = 2 * env.spec.episode_decisions * config.num_envs
    config = dataclasses.replace(config, replay_size=rows)
    count = 3 if options.quick else options.batches
    begun = time.perf_counter()
    found = {
        name: variance.measure(
            config,
            agent,
            batches=count,
            draws=2 if options.quick else 4,
            quick=options.quick,
            say=lambda text, name=name: print(
                f"[{time.perf_counter() - begun:4.0f} s] {name} weights: {text}",
                flush=True,
            ),
        )
        for name, agent in agents.items()
    }
    result = variance.record(config, found) | {"batches": count, "trained_step": step}
    return Outcome(result, variance.table(found), lambda: variance.draw(found))


def _config(options: argparse.Namespace) -> Config:
    values = preset_values("gpld", platform=jax.default_backend())
    values |= {"--size": options.size or ("1m" if options.quick else "12m")}
    return dataclasses.replace(build(values), env="walker-walk")


def _parser() -> Parser:
    parser = Parser(
        "overhead",
        description="Time the train step with and without the Jacobian penalty.",
    )
    parser.add_argument(
        "--size", choices=("1m", "12m", "25m"), help="default 12m; 1m with --quick"
    )
    parser.add_argument(
        "--variance", action="store_true", help="variance of the probes, not time"
    )
    parser.add_argument(
        "--run", type=Path, metavar="DIR", help="with --variance: a run's weights too"
    )
    parser.add_argument(
        "--batches", type=count, default=16, help="for --variance (default 16)"
    )
    parser.add_argument(
        "--op", action="store_true", help="the op alone, as benchmarks.overhead.op"
    )
    parser.add_argument(
        "--profile", type=Path, metavar="DIR", help="write traces instead of timing"
    )
    parser.add_argument("--all", action="store_true", help="the full cross product")
    parser.add_argument("--rounds", type=count, help="timed rounds (default 12)")
    parser.add_outputs(quick="size 1m, few rows, few rounds")
    return parser


if __name__ == "__main__":
    sys.exit(main())
