"""The train step, compiled with any penalty and timed against the step without."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

import envs
from benchmarks.measure.timing import Spread, interleave, ratios
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


def measure(
    bench: Bench,
    rows: Sequence[Variant],
    *,
    rounds: int,
    say: Callable[[str], None] = print,
) -> tuple[Measured, dict[Variant, Measured]]:
    """Time the step without penalty and every row against it."""
    start = time.perf_counter()
    programs = {}
    for number, row in enumerate([None, *rows]):
        programs[row] = bench.compile(row and row.options)
        spent = time.perf_counter() - start
        left = spent / (number + 1) * (len(rows) - number)
        say(f"compiled {number + 1}/{len(rows) + 1}, about {left:.0f} s to go")
    begun = time.perf_counter()

    def progress(done: int) -> None:
        spent = time.perf_counter() - begun
        say(f"round {done}/{rounds}, {spent / (done + 1) * (rounds - done):.0f} s left")

    named = {"none" if row is None else row.name: row for row in programs}
    seconds = interleave(
        {
            name: lambda row=row: jax.block_until_ready(programs[row].call())
            for name, row in named.items()
        },
        rounds=rounds,
        progress=progress,
    )
    found = {}
    for name, row in named.items():
        ratio = None if row is None else ratios(seconds[name], seconds["none"])
        found[row] = Measured(Spread.of(seconds[name]), ratio, *programs[row][1:-1])
    return found.pop(None), found
