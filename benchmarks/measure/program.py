"""Compiled programs for benchmarks, with compile time, memory and FLOPs."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.measure.flops import count_flops
from train.program.compiler import compiler_options


class Program(NamedTuple):
    """A compiled program that repeats a step.

    Attributes:
        call: starts it; returns arrays to block on.
        times: number of repeats in one call.
        compile_seconds: tracing and compilation.
        peak_bytes: temporary memory as reported by XLA.
        flops: of the matrix products of one repeat.
        text: returns the optimized HLO.
    """

    call: Callable[[], object]
    times: int
    compile_seconds: float
    peak_bytes: int | None
    flops: int
    text: Callable[[], str]


def repeated(step: Callable[[Any, Any], Any], times: int) -> Callable[[Any, Any], Any]:
    """`times` steps `(carry, key) -> carry` as one function of the same form.

    The step's result is carried, so that XLA cannot eliminate any of it.
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
    """`repeated` as a program, compiled with XLA's `flags`."""
    return build(repeated(step, times), carry, jax.random.key(2), times, flags=flags)


def donated(
    program: Callable[[Any, Any], tuple[Any, Any]], carry: Any, *, times: int
) -> Program:
    """A program `(carry, key) -> (carry, output)` with a donated carry.

    As in training, each call continues from the previous one. The returned carry is
    valid until the next call.
    """
    held = [jax.tree.map(jnp.copy, carry)]  # other programs share the carry

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
    """`jax.jit(program, **options)` for these arguments, compiled as in training.

    XLA's `flags` are added to those of `train.program.compiler`.

    Args:
        caller: maps the compiled program and the key to `Program.call`; by default
            the program is called with its arguments.
    """
    start = time.perf_counter()
    traced = jax.jit(program, **options).trace(carry, key)
    usual = dict(compiler_options(jax.default_backend()))
    executable = traced.lower().compile(compiler_options=usual | dict(flags or {}))
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
