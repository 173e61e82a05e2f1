"""Programs compiled without a GPU, kept in files, and run on one.

An update takes minutes of two cores to compile. A GPU that is lent for a quarter of an
hour should not wait for that, and the launches that were counted in a compiled program
can be compared with those of the very same program. ``--stage compile --keep DIR``
writes the files, ``--stage all --compiled DIR`` runs them, with the same versions of
JAX and jaxlib.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import serialize_executable
from jaxtyping import PyTree

from benchmarks.gpu import kernel_checks
from benchmarks.gpu.compile.programs import OPS, PROGRAMS, Built, OpCase
from benchmarks.gpu.parts import COMPILED, Clock, Entries, attempt, differing, items
from benchmarks.measure import trace
from benchmarks.measure.timing import Spread, interleave, ratios
from benchmarks.overhead.steps import Bench
from core.states import State
from core.transition import Transition
from train.config import Config
from train.errors import UserError
from train.program.state import Learner

UPDATES = {
    size: tuple(f"update-{penalty}-{size}" for penalty in ("none", "pallas", "xla"))
    for size in ("12m", "1m")
}


class Kept(NamedTuple):
    """What a file holds: a line of JSON, and the program as JAX serializes it.

    JAX's part is a pickle: load none from anybody that you do not trust.

    Attributes:
        jax: the version that compiled it.
        device: what it was compiled for, of `target.DEVICES`.
        label: of the program, see `programs.Built`.
        flags: for XLA, besides those of a training run.
        payload: from `jax.experimental.serialize_executable`.
    """

    jax: str
    device: str
    label: str
    flags: Mapping[str, Any]
    payload: bytes


class Program(NamedTuple):
    """A program that was read from a file."""

    call: Callable[..., Any]
    flags: Mapping[str, Any]
    text: Callable[[], str]


def path_of(folder: Path, label: str, variant: str = "") -> Path:
    """The file of the program with this label."""
    name = f"{label} {variant}".strip().replace(" ", "-").replace("=", "")
    return folder / f"{name}.compiled"


def keep(
    compiled: jax.stages.Compiled,
    label: str,
    device: str,
    folder: Path,
    *,
    flags: Mapping[str, Any] | None = None,
    variant: str = "",
) -> Path:
    """Writes a compiled program to its file."""
    payload = serialize_executable.serialize(compiled)[0]
    folder.mkdir(parents=True, exist_ok=True)
    path = path_of(folder, label, variant)
    kept = Kept(jax.__version__, device, label, dict(flags or {}), payload)
    path.write_bytes(json.dumps(kept[:-1]).encode() + b"\n" + kept.payload)
    return path


def load(built: Built, path: Path) -> Program:
    """The program, ready to run on the default device.

    Raises:
        UserError: there is no such file, or another version of JAX wrote it.
    """
    if not path.is_file():
        raise UserError(f"--compiled {path.parent}: there is no {path.name}")
    head, _, payload = path.read_bytes().partition(b"\n")
    version, device, label, flags = json.loads(head)
    kept = Kept(version, device, label, flags, payload)
    if (kept.jax, kept.label) != (jax.__version__, built.label):
        raise UserError(
            f"--compiled {path.parent}: {path.name} is {kept.label!r}, compiled by JAX "
            f"{kept.jax}; wanted: {built.label!r} by {jax.__version__}"
        )
    out = jax.tree.structure(jax.eval_shape(built.fn, *built.args))
    arguments = jax.tree.structure((built.args, {}))
    compiled = serialize_executable.deserialize_and_load(
        kept.payload, arguments, out, execution_devices=jax.devices()[:1]
    )
    return Program(compiled, kept.flags, lambda: compiled.as_text() or "")


def on_cpu[T](make: Callable[[], T]) -> T:
    """What `make` computes, by the CPU, whose programs compile in a moment."""
    with jax.default_device(jax.devices("cpu")[0]):
        made = make()
    return jax.device_put(made, jax.devices()[0])


def given() -> Path | None:
    """The folder that `--compiled` named."""
    folder = os.environ.get(COMPILED)
    return None if folder is None else Path(folder)


MISSING = {"error": "no folder of compiled programs (--compiled DIR)"}


def finite(tree: PyTree) -> bool:
    """Whether there is neither NaN nor Inf in it."""
    return all(
        bool(jnp.isfinite(x).all())
        for x in jax.tree.leaves(tree)
        if jnp.issubdtype(x.dtype, jnp.floating)
    )


def updates(
    size: str,
    clock: Clock,
    *,
    config: Callable[[], Config],
    counted: Callable[[str], Any] = lambda name: None,
    calls: int = 10,
    rounds: int = 9,
    item_seconds: float = 5.0,
) -> Entries:
    """The updates of a training run, as compiled ahead, in turn; one is traced.

    Every file of the size's updates is one row, whatever flags it was compiled with.

    Args:
        size: of `UPDATES`.
        config: the configuration that they were compiled for.
        counted: what was counted in a program of this name without a GPU.
        calls: updates in a row, each from the state that the last one left.
    """
    folder = given()
    if folder is None:
        yield "programs", MISSING
        return

    def inputs() -> tuple[Learner, State, Transition]:
        bench = Bench(config())
        return bench.learner, bench.initial, bench.batch

    learner, initial, batch = on_cpu(inputs)
    found = {
        path.stem: (name, path)
        for name in UPDATES[size]
        for path in sorted(folder.glob(f"{name}*.compiled"), key=lambda x: x.stem)
    }
    running: dict[str, Callable[[], object]] = {}
    programs: dict[str, Program] = {}

    def begin(row: str) -> dict[str, Any]:
        name, path = found[row]
        program = load(next(iter(PROGRAMS[name]())), path)
        state = jax.tree.map(jnp.copy, learner)  # it is donated

        def call() -> object:
            nonlocal state
            for _ in range(calls):
                state, *_ = program.call(state, initial, batch, jax.random.key(3))
            return jax.block_until_ready(state)

        first = jax.tree.map(
            np.asarray,
            program.call(
                jax.tree.map(jnp.copy, learner), initial, batch, jax.random.key(3)
            )[0].agent,
        )
        again = program.call(
            jax.tree.map(jnp.copy, learner), initial, batch, jax.random.key(3)
        )[0].agent
        call()
        if not finite(state.agent):
            raise FloatingPointError(f"{row}: NaN or Inf after {calls} updates")
        running[row], programs[row] = call, program
        return {
            "updates": calls,
            "finite": True,
            "flags": dict(program.flags),
            "same_bits_again": differing(first, again) == [],
        }

    yield from items({row: partial(begin, row) for row in found}, clock, item_seconds)
    if not running:
        return

    seconds = interleave(running, rounds=rounds)
    each = {row: [s / calls for s in taken] for row, taken in seconds.items()}
    first = next(iter(each))
    for row, taken in each.items():
        yield (
            f"{row}, time",
            {
                "programs": {row: {"seconds": Spread.of(taken)._asdict()}},
                "flags": dict(programs[row].flags),
                "ratio": ratios(taken, each[first])._asdict(),
                "against": first,
                "compiled_without_gpu": counted(found[row][0]),
            },
        )

    def traced() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as scratch:
            seen = trace.traced(running[row], programs[row].text(), Path(scratch))
        # XLA takes CUDA graphs apart while a profiler is watching.
        return {"updates": calls, "trace": seen}

    row = list(running)[-1]
    yield f"{row}, launches", attempt(traced)


def ops(clock: Clock, *, rounds: int = 9, item_seconds: float = 3.0) -> Entries:
    """The penalty op: each implementation against float32, and how long it takes."""
    folder = given()
    if folder is None:
        yield "programs", MISSING
        return
    for what in dict.fromkeys(case.what for case in OPS):
        cases = [case for case in OPS if case.what == what]
        work = {what: partial(_one_op, cases, folder, rounds)}
        yield from items(work, clock, item_seconds)


def _one_op(cases: list[OpCase], folder: Path, rounds: int) -> dict[str, Any]:
    """The op of one shape in all its implementations."""
    runs: dict[str, Callable[[], Any]] = {}
    results: dict[str, PyTree] = {}
    missing: dict[str, str] = {}
    for case in cases:
        name = case.label.removeprefix(f"op {case.what} ")
        inputs = on_cpu(case.inputs)
        built = Built(case.label, case.program, inputs)
        try:
            program = load(built, path_of(folder, case.label))
            run = lambda p=program, x=inputs: jax.block_until_ready(p.call(*x))
            results[name] = run()
        except Exception as error:  # the others are still wanted
            missing[name] = f"{type(error).__name__}: {error}"[:500]
            continue
        if not case.exact_products:
            runs[name] = run
    checks = []
    wanted = results.pop("float32", None)
    for name, result in results.items():
        if wanted is not None:
            paths = jax.tree_util.tree_leaves_with_path(result)
            for (path, x), y in zip(paths, jax.tree.leaves(wanted), strict=True):
                label = f"{name}{jax.tree_util.keystr(path)} against float32"
                tolerance = kernel_checks.REFERENCE_TOLERANCE[kernel_checks.NARROW]
                checks.append(kernel_checks.compare(label, x, y, tolerance))
    seconds = interleave(runs, rounds=rounds) if runs else {}
    calls = cases[0].calls
    each = {name: [s / calls for s in taken] for name, taken in seconds.items()}
    return {
        "passed": bool(checks) and not missing and all(x.passed for x in checks),
        "arrays": [{**x._asdict(), "passed": x.passed} for x in checks],
        "not_measured": missing,
        "implementations": {
            name: {
                "seconds": Spread.of(taken)._asdict(),
                **{
                    f"speedup_over_{other}": ratios(each[other], taken)._asdict()
                    for other in ("reference", "xla")
                    if other in each
                },
            }
            for name, taken in each.items()
        },
    }


def training(clock: Clock, *, chunks: int = 12, item_seconds: float = 20.0) -> Entries:
    """`train.main`'s programs in its order: start, filling the replay, cycles."""
    folder = given()
    if folder is None:
        yield "programs", MISSING
        return

    def run() -> dict[str, Any]:
        start, prefill = PROGRAMS["before-training"]()
        (cycle,) = PROGRAMS["chunk"]()
        made = {
            each.label: load(each, path_of(folder, each.label))
            for each in (start, prefill, cycle)
        }
        begun = time.perf_counter()
        state = made["start"].call(jax.random.key(0))
        state, _ = jax.block_until_ready(made["prefill"].call(state))
        filled = time.perf_counter() - begun
        seconds, records = [], []
        before = int(state.learner.updates), int(state.collector.decisions)
        for _ in range(chunks):
            begun = time.perf_counter()
            state, out = jax.block_until_ready(made["chunk"].call(state))
            seconds.append(time.perf_counter() - begun)
            records.append({k: float(np.asarray(v)) for k, v in out.metrics.items()})
        after = int(state.learner.updates), int(state.collector.decisions)
        updates, decisions = (
            (y - x) / chunks for x, y in zip(before, after, strict=True)
        )
        usual = statistics.median(seconds[1:])
        return {
            "programs": {"a cycle": {"seconds": Spread.of(seconds[1:])._asdict()}},
            "prefill_seconds": filled,
            "updates_in_a_cycle": updates,
            "decisions_in_a_cycle": decisions,
            "updates_per_second_of_the_cycle": updates / usual,
            "decisions_per_second_of_the_cycle": decisions / usual,
            "finite": finite(state.learner.agent),
            "metrics": [records[0], records[-1]],
        }

    yield from items({"start, prefill, cycles": run}, clock, item_seconds)
