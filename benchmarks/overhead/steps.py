"""The train step, compiled with any penalty and timed against the step without."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

import envs
from benchmarks.measure.timing import (
    Cost,
    Interval,
    Spread,
    interleave_costs,
    paired,
)
from benchmarks.overhead.rows import Measured, Variant
from core.penalty import PenaltyOptions
from core.transition import Transition
from train.config import Config
from train.program.compiler import compiler_options
from train.program.state import compute_dtype, init_learner
from train.program.update import UpdateOptions, update


class Program(NamedTuple):
    """A compiled step: a function that starts it, and what XLA reports."""

    call: Callable[[], object]
    seconds: float
    peak_bytes: int | None
    flops: float | None
    text: str


class Bench:
    """The train step of one configuration, compiled for any penalty."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.dtype = compute_dtype(config, jax.default_backend())
        env = envs.VectorEnv(envs.make(config.env), config.num_envs)
        self.learner = jax.jit(lambda key: init_learner(config, env, key))(
            jax.random.key(config.seed)
        )
        time, batch = config.batch_length, config.batch_size
        obs, action = env.spec.obs_shape[0], env.spec.action_dim
        keys = jax.random.split(jax.random.key(1), 3)
        flags = jnp.zeros((time, batch), bool)
        self.batch = Transition(
            jax.random.normal(keys[0], (time, batch, obs)),
            jax.random.uniform(keys[1], (time, batch, action), minval=-1.0),
            jax.random.uniform(keys[2], (time, batch)),
            flags,
            flags,
            flags,
        )
        self.initial = self.learner.agent.model.rssm.initial(batch)

    def compile(self, penalty: PenaltyOptions | None) -> Program:
        """The step with this penalty, None for none.

        The FLOPs are a lower bound, because XLA counts the body of a loop once.
        """

        def step(learner, key):
            return update(
                self.config,
                learner,
                self.initial,
                self.batch,
                key=key,
                options=UpdateOptions(penalty, self.dtype),
            )

        key = jax.random.key(2)
        start = time.perf_counter()
        options = dict(compiler_options(jax.default_backend()))
        lowered = jax.jit(step).lower(self.learner, key)
        compiled = lowered.compile(compiler_options=options)
        seconds = time.perf_counter() - start
        memory = compiled.memory_analysis()
        costs = compiled.cost_analysis()
        return Program(
            lambda: compiled(self.learner, key),
            seconds,
            None if memory is None else memory.temp_size_in_bytes,
            (costs or {}).get("flops"),
            compiled.as_text() or "",
        )


GROUP = 4
"""Rows that are timed together, beside the step without penalty."""
NONE, AGAIN = "none", "none again"


def measure(
    bench: Bench,
    rows: Sequence[Variant],
    *,
    rounds: int,
    say: Callable[[str], None] = print,
) -> tuple[Measured, dict[Variant, Measured]]:
    """Time the step without penalty, and every row against it.

    A few rows at a time, so that what is compared lies seconds apart. Each group has
    the step without penalty twice: a ratio is to the mean of both in the same round,
    and their own ratio, the first result, shows how far equal programs seem to differ.
    """
    start = time.perf_counter()
    programs = {}
    for number, row in enumerate([None, *rows]):
        programs[row] = bench.compile(row and row.options)
        spent = time.perf_counter() - start
        left = spent / (number + 1) * (len(rows) - number)
        say(f"compiled {number + 1}/{len(rows) + 1}, about {left:.0f} s to go")
    groups = [rows[at : at + GROUP] for at in range(0, len(rows), GROUP)]
    total = len(groups) * (rounds + 1)
    begun = time.perf_counter()
    found: dict[Variant, Measured] = {}
    first: list[Cost] = []
    second: list[Cost] = []
    for number, group in enumerate(groups):

        def progress(done: int, before: int = number * (rounds + 1) + 1) -> None:
            spent, done = time.perf_counter() - begun, before + done
            say(f"round {done}/{total}, {spent / done * (total - done):.0f} s left")

        compiled = {NONE: programs[None], AGAIN: programs[None]}
        compiled |= {row.name: programs[row] for row in group}
        costs = interleave_costs(
            {
                name: lambda call=program.call: jax.block_until_ready(call())
                for name, program in compiled.items()
            },
            rounds=rounds,
            progress=progress,
        )
        nones = costs[NONE], costs[AGAIN]
        for row in group:
            found[row] = _measured(programs[row], costs[row.name], *nones)
        first += nones[0]
        second += nones[1]
    return _measured(programs[None], second, first), found


def _measured(
    program: Program, costs: Sequence[Cost], *baselines: Sequence[Cost]
) -> Measured:
    def ratio(clock: int) -> Interval:
        return paired(*([cost[clock] for cost in x] for x in (costs, *baselines)))

    on_cpu = jax.default_backend() == "cpu"
    return Measured(
        Spread.of([cost.wall for cost in costs]),
        Spread.of([cost.processor for cost in costs]),
        ratio(Cost._fields.index("processor" if on_cpu else "wall")),
        ratio(Cost._fields.index("wall")),
        *program[1:-1],
    )
