"""The parts of ``python -m benchmarks.gpu --stage kernel``."""

import os
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import DTypeLike

from benchmarks.gpu import kernel_checks
from benchmarks.gpu.parts import KERNEL_OFF, Clock, Entries, Part, attempt, items
from benchmarks.measure.device_time import (
    CALLS,
    chain,
    copy_chain,
    floor,
    peak_of,
    product_chain,
)
from benchmarks.measure.timing import Spread, interleave, ratios
from benchmarks.overhead.op.cases import (
    SHAPES,
    Case,
    HeadShape,
    op_bytes,
    op_flops,
    penalty_program,
    probe_families,
    random_inputs,
    rows_bytes,
    rows_flops,
)
from kernels import Implementation, kernel_obstacle
from kernels.pallas import kernel as pallas_gpu
from kernels.pallas import tiling

ROUNDS = 11
ITEM_SECONDS = 15.0
"""No item is begun with less time left than this: compiling it may take that long."""
TUNING_SECONDS = 4.0
"""The same for one more tiling: a single kernel."""


def ceilings(clock: Clock) -> Entries:
    """What a large product and a large copy reach on this very device."""

    def product() -> dict[str, Any]:
        size, calls = 8192, 8
        seconds = interleave({"": product_chain(size, calls)}, rounds=ROUNDS)[""]
        rate = 2 * size**3 * calls / statistics.median(seconds)
        return {"size": size, "dtype": "bfloat16", "flops_per_second": rate}

    def copy() -> dict[str, Any]:
        size, calls = 2**29, 8
        seconds = interleave({"": copy_chain(size, calls)}, rounds=ROUNDS)[""]
        rate = 2 * 4 * size * calls / statistics.median(seconds)
        return {"bytes": 4 * size, "bytes_per_second": rate}

    return items({"product": product, "copy": copy}, clock, ITEM_SECONDS)


def checks(clock: Clock) -> Entries:
    """Is the kernel right?"""

    def entry(run: Callable[[], list[kernel_checks.Check]]) -> dict[str, Any]:
        found = run()
        return {
            "passed": all(check.passed for check in found),
            "arrays": [{**check._asdict(), "passed": check.passed} for check in found],
        }

    suite = kernel_checks.suite()
    return items(
        {name: partial(entry, run) for name, run in suite.items()}, clock, ITEM_SECONDS
    )


def tilings(
    shape: HeadShape, n: int, dtype: DTypeLike = jnp.bfloat16
) -> list[tiling.Tiling]:
    """Those that the kernel has for these sizes, its own choice first.

    Cuts into so few blocks that three of four multiprocessors are idle are left out.
    """
    default = tiling.default_tiling(shape.k, n, shape.h, dtype)
    tiles = tiling.padded(n, tiling.STATES) // tiling.STATES
    every = [
        tiling.Tiling(columns, rows)
        for rows in range(1, shape.k + 1)
        if shape.k % rows == 0 and 4 * tiles * shape.k >= rows * tiling.TARGET_BLOCKS
        for columns in (64, 128)
        if shape.h % columns == 0
    ]
    return [default, *(cut for cut in every if cut != default)]


def tune(clock: Clock) -> Entries:
    """The kernel alone with every tiling, and XLA's form of the same arrays.

    XLA multiplies float32 as it does by default: on this GPU with TF32 operands.
    """
    narrow, wide = jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32)
    heads = (
        ("12m", SHAPES["12m"], 512, narrow),
        ("12m", SHAPES["12m"], 1024, narrow),
        ("1m", SHAPES["1m"], 1024, narrow),
        ("H=192", SHAPES["12m"]._replace(h=192), 512, narrow),
        ("1m", SHAPES["1m"], 1024, wide),
        ("H=128", SHAPES["12m"]._replace(h=128), 512, wide),
    )

    def fair_share(number: int) -> Clock:
        """What is left to the head of this number, the later ones' time kept back."""
        kept = clock() * (1 - 1 / (len(heads) - number))
        return lambda: clock() - kept

    def tuned(
        number: int, shape: HeadShape, n: int, dtype: DTypeLike
    ) -> Callable[[], dict[str, Any]]:
        return lambda: _tune_one(shape, n, dtype, fair_share(number))

    work = {
        f"{name}, N={n}, {dtype.name}": tuned(number, shape, n, dtype)
        for number, (name, shape, n, dtype) in enumerate(heads)
    }
    return items(work, clock, ITEM_SECONDS)


def _tune_one(
    shape: HeadShape, n: int, dtype: DTypeLike, clock: Clock
) -> dict[str, Any]:
    inputs = kernel_checks.rows_inputs(jax.random.key(0), shape, n, dtype)
    narrow = jax.tree.map(lambda x: x.astype(dtype), inputs)
    # As the op calls it: the kernel gets k and a in float32, the rest it rounds anyway.
    delta, _, w, gate, _, gram = narrow
    mixed = (delta, inputs[1], w, gate, inputs[4], gram)
    programs = {"xla": chain(lambda x, _: kernel_checks.plain_rows(*x), narrow)}
    failed = {}
    for cut in tilings(shape, n, dtype):
        name = f"columns {cut.columns}, rows {cut.rows}"
        if (reason := kernel_off()) is not None:
            failed[name] = reason
            continue
        if programs.keys() - {"xla"} and clock() < TUNING_SECONDS:
            failed[name] = "not begun: no time was left"
            continue
        run = partial(pallas_gpu.row_arrays, dtype=dtype, tiling=cut)
        built: dict[str, Any] = attempt(
            lambda run=run: {"run": chain(lambda x, _: run(*x), mixed)}
        )
        if "run" in built:
            programs[name] = built["run"]
        else:
            failed[name] = built["error"]
    programs["loop alone"] = chain(lambda x, _: jnp.ravel(x[0])[:1], mixed)
    seconds = _per_call(programs)
    peak = peak_of(jax.devices()[0].device_kind)
    entry: dict[str, Any] = {"failed": failed, "programs": {}}
    for name, values in seconds.items():
        median = statistics.median(values)
        entry["programs"][name] = {
            "seconds": Spread.of(values)._asdict(),
            "speedup_over_xla": ratios(seconds["xla"], values)._asdict(),
        }
        # The floor counts one bfloat16 product, and float32 takes three.
        if peak is not None and name != "loop alone" and dtype == jnp.bfloat16:
            entry["programs"][name]["floor"] = floor(
                rows_flops(shape, n), rows_bytes(shape, n), peak, median
            )
    kernels = {k: v for k, v in seconds.items() if k.startswith("columns")}
    default = tiling.default_tiling(shape.k, n, shape.h, dtype)
    entry["default"] = f"columns {default.columns}, rows {default.rows}"
    if kernels:
        entry["best"] = min(kernels, key=lambda name: statistics.median(kernels[name]))
    return entry


def kernel_off() -> str | None:
    """Why the kernel is not run here: its own checks did not come to their end."""
    ended = os.environ.get(KERNEL_OFF)
    return f"not begun: the kernel's checks: {ended}" if ended else None


def _per_call(
    programs: dict[str, Callable[[], object]], calls: int = CALLS
) -> dict[str, list[float]]:
    found = interleave(programs, rounds=ROUNDS)
    return {name: [value / calls for value in found[name]] for name in found}


def times(names: tuple[str, ...], clock: Clock) -> Entries:
    """The op as training calls it: pre-activation given, bfloat16, mean form."""
    order = [
        (name, n, number, gradient)
        for number in range(3)
        for gradient in (True, False)
        for name in names
        for n in (512, 1024)
    ]
    work = {}
    for name, n, number, gradient in order:
        probes = probe_families(SHAPES[name].c)[number]
        done = "value and gradients" if gradient else "value"
        work[f"{name}, N={n}, {probes.label}, {done}"] = partial(
            time_op, SHAPES[name], n, number, gradient=gradient
        )
    return items(work, clock, 2 * ITEM_SECONDS)


def time_op(
    shape: HeadShape, n: int, family: int, *, gradient: bool, calls: int = CALLS
) -> dict[str, Any]:
    """One op in all implementations that run here.

    The reference computes in float32, at the precision JAX takes by default.
    """
    probes = probe_families(shape.c)[family]
    u, a, head = random_inputs(jax.random.key(0), shape, n, jnp.bfloat16)
    pick = (lambda results: results[1:]) if gradient else None
    entry: dict[str, Any] = {"not_measured": {}, "implementations": {}}
    programs: dict[str, Callable[[], object]] = {}
    obstacle = kernel_off() or kernel_obstacle(
        hidden=shape.h, classes=shape.c, dtype=u.dtype
    )
    names: tuple[Implementation, ...] = ("reference", "xla", "pallas")
    for name in names:
        if name == "pallas" and obstacle is not None:
            entry["not_measured"][name] = obstacle
            continue
        case = Case(name, probes, gradient, True)
        fn = penalty_program(
            name, probes, classes=shape.c, gradient=gradient, reuse=case.reuse
        )
        built: dict[str, Any] = attempt(
            lambda fn=fn: {
                "run": chain(
                    lambda x, key: fn(u, *x, key),
                    (a, head),
                    calls=calls,
                    gradients=pick,
                )
            }
        )
        if "run" in built:
            programs[name] = built["run"]
        else:
            entry["not_measured"][name] = built["error"]
    programs["loop alone"] = chain(lambda x, _: x[0][:1, 0], (a, head), calls=calls)
    seconds = _per_call(programs, calls)
    number = probes.number(shape.c)
    work = op_flops(shape, n, number, gradient=gradient, reuse=True)
    least = op_bytes(shape, n, width=2, gradient=gradient, reuse=True)
    peak = peak_of(jax.devices()[0].device_kind)
    for name, values in seconds.items():
        found = entry["implementations"][name] = {
            "seconds": Spread.of(values)._asdict(),
            **{
                f"speedup_over_{other}": ratios(seconds[other], values)._asdict()
                for other in ("reference", "xla")
                if other in seconds
            },
        }
        if peak is not None and name != "loop alone":
            found["floor"] = floor(work, least, peak, statistics.median(values))
    return entry


PARTS = {
    "ceilings": Part(ceilings, 40),
    "checks": Part(checks, 170),
    "tune": Part(tune, 125),
    "times-12m": Part(partial(times, ("12m",)), 120),
    "times-1m": Part(partial(times, ("1m",)), 65),
}
"""520 seconds in all: a part's time is what it may take, starting JAX included."""
