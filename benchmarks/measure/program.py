"""Programs that benchmarks time: compiled once, with what is known of them."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.measure.flops import count_flops


class Program(NamedTuple):
    """A compiled program that does one thing several times.

    Attributes:
        call: begins it; what it returns can be waited for.
        times: how often it does the thing.
        compile_seconds: tracing and compiling.
        peak_bytes: temporaries, as XLA reports them.
        flops: of the matrix products of one time.
        text: gives XLA's optimized program.
    """

    call: Callable[[], object]
    times: int
    compile_seconds: float
    peak_bytes: int | None
    flops: int
    text: Callable[[], str]


def repeated(step: Callable[[Any, Any], Any], times: int) -> Callable[[Any, Any], Any]:
    """`times` steps `(carry, key) -> carry` as one function of that form.

    What a step returns is carried, so that none of it can be left out.
    """

    def program(carry, key):
        body = lambda carry, key: (step(carry, key), None)
        return jax.lax.scan(body, carry, jax.random.split(key, times))[0]

    return program


def repeat(
    step: Callable[[Any, Any], Any],
    carry: Any,
    times: int,
    flags: Mapping[str, Any] | None = None,
) -> Program:
    """`repeated` as a program, with XLA's `flags`."""
    return build(repeated(step, times), carry, jax.random.key(2), times, flags=flags)


def donated(
    program: Callable[[Any, Any], tuple[Any, Any]], carry: Any, *, times: int
) -> Program:
    """A program `(carry, key) -> (carry, output)` that overwrites what it is given.

    As in training: each call goes on from the one before. Its carry is returned to be
    waited for, and is gone after the next call.
    """
    held = [jax.tree.map(jnp.copy, carry)]  # other programs have the same carry

    def caller(compiled: Any, key: Any) -> Callable[[], object]:
        def call() -> object:
            held[0], output = compiled(held[0], key)
            return held[0], output

        return call

    key = jax.random.key(2)
    return build(program, carry, key, times, caller, donate_argnums=0)


def build(
    program: Callable[[Any, Any], Any],
    carry: Any,
    key: Any,
    times: int,
    caller: Callable[[Any, Any], Callable[[], object]] | None = None,
    flags: Mapping[str, Any] | None = None,
    **options: Any,
) -> Program:
    """`jax.jit(program, **options)` for these arguments, compiled with XLA's `flags`.

    Args:
        caller: from what was compiled and the key, what a call does; None for
            calling it with the arguments.
    """
    start = time.perf_counter()
    traced = jax.jit(program, **options).trace(carry, key)
    executable = traced.lower().compile(compiler_options=dict(flags or {}))
    seconds = time.perf_counter() - start
    memory = executable.memory_analysis()
    return Program(
        caller(executable, key) if caller else lambda: executable(carry, key),
        times,
        seconds,
        None if memory is None else memory.temp_size_in_bytes,
        count_flops(traced.jaxpr.jaxpr) // times,
        lambda: executable.as_text() or "",
    )
