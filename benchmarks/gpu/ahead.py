"""Programs compiled without a GPU, kept in files, and run on one.

An update takes minutes of two cores to compile. A GPU that is lent for a quarter of an
hour should not wait for that, and the launches that were counted in a compiled program
can be compared with those of the very same program. ``--stage compile --keep DIR``
writes the files, ``--stage all --compiled DIR`` runs them, with the same versions of
JAX and jaxlib.
"""

import os
import pickle
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import serialize_executable

from benchmarks.gpu.compile.programs import PROGRAMS, Built
from benchmarks.gpu.parts import COMPILED, Clock, Entries, attempt, items
from benchmarks.measure import trace
from benchmarks.measure.timing import Spread, interleave, ratios
from benchmarks.overhead.steps import Bench
from train.config import Config
from train.errors import UserError

UPDATES = {
    size: tuple(f"update-{penalty}-{size}" for penalty in ("none", "pallas", "xla"))
    for size in ("12m", "1m")
}


class Kept(NamedTuple):
    """What a file holds, pickled: load none from anybody that you do not trust.

    Attributes:
        jax: the version that compiled it.
        device: what it was compiled for, of `target.DEVICES`.
        payload: from `jax.experimental.serialize_executable`.
    """

    jax: str
    device: str
    payload: bytes


def path_of(folder: Path, label: str) -> Path:
    """The file of the program with this label."""
    return folder / f"{label.replace(' ', '-')}.compiled"


def keep(compiled: jax.stages.Compiled, label: str, device: str, folder: Path) -> Path:
    """Writes a compiled program to its file."""
    payload = serialize_executable.serialize(compiled)[0]
    folder.mkdir(parents=True, exist_ok=True)
    path = path_of(folder, label)
    path.write_bytes(pickle.dumps(Kept(jax.__version__, device, payload)))
    return path


def load(built: Built, folder: Path) -> jax.stages.Compiled:
    """The program, ready to run on the default device.

    Raises:
        UserError: there is no such file, or another version of JAX wrote it.
    """
    path = path_of(folder, built.label)
    if not path.is_file():
        raise UserError(f"--compiled {folder}: there is no {path.name}")
    kept = Kept(*pickle.loads(path.read_bytes()))
    if kept.jax != jax.__version__:
        raise UserError(
            f"--compiled {folder}: {path.name} was compiled by JAX {kept.jax}, this is "
            f"{jax.__version__}"
        )
    out = jax.tree.structure(jax.eval_shape(built.fn, *built.args))
    arguments = jax.tree.structure((built.args, {}))
    return serialize_executable.deserialize_and_load(
        kept.payload, arguments, out, execution_devices=jax.devices()[:1]
    )


def updates(
    clock: Clock,
    *,
    names: Iterable[str],
    config: Callable[[], Config],
    counted: Callable[[str], Any] = lambda name: None,
    calls: int = 10,
    rounds: int = 9,
    item_seconds: float = 8.0,
) -> Entries:
    """The updates of a training run, as compiled ahead, in turn; one is traced.

    Args:
        config: the configuration that they were compiled for.
        counted: what was counted in a program of this name without a GPU.
        calls: updates in a row, each from the state that the last one left.
    """
    folder = os.environ.get(COMPILED)
    if folder is None:
        yield "programs", {"error": "no folder of compiled programs (--compiled DIR)"}
        return
    bench = Bench(config())
    running: dict[str, Callable[[], object]] = {}
    texts: dict[str, str] = {}

    def begin(name: str) -> dict[str, Any]:
        program = load(next(iter(PROGRAMS[name]())), Path(folder))
        state = jax.tree.map(lambda x: x.copy(), bench.learner)  # it is donated

        def call() -> object:
            nonlocal state
            for _ in range(calls):
                state, *_ = program(
                    state, bench.initial, bench.batch, jax.random.key(3)
                )
            return jax.block_until_ready(state)

        call()
        finite = all(
            bool(jnp.isfinite(x).all())
            for x in jax.tree.leaves(state.agent)
            if jnp.issubdtype(x.dtype, jnp.floating)
        )
        if not finite:
            raise FloatingPointError(f"{name}: NaN or Inf after {calls} updates")
        running[name], texts[name] = call, program.as_text() or ""
        return {"updates": calls, "finite": finite}

    yield from items({n: partial(begin, n) for n in names}, clock, item_seconds)
    if not running:
        return

    seconds = interleave(running, rounds=rounds)
    each = {name: [s / calls for s in found] for name, found in seconds.items()}
    first = next(iter(each))
    for name, found in each.items():
        entry: dict[str, Any] = {
            "programs": {name: {"seconds": Spread.of(found)._asdict()}},
            "compiled_without_gpu": counted(name),
        }
        if name != first:
            entry["ratio"] = ratios(found, each[first])._asdict()
            entry["against"] = first
        yield f"{name}, time", entry

    def traced() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as scratch:
            found = trace.traced(running[name], texts[name], Path(scratch))
        # XLA takes CUDA graphs apart while a profiler is watching.
        return {
            "updates": calls,
            "trace": found,
            "compiled_without_gpu": counted(name),
        }

    name = list(running)[-1]
    yield f"{name}, launches", attempt(traced)
