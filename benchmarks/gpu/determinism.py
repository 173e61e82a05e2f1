"""The parts of ``python -m benchmarks.gpu --stage determinism``: are the bits the same?

The same updates run again by the same program, and by one compiled again; whole
training runs from one seed, unbroken and stopped in between. Each with XLA's usual
choices and with `xla_gpu_deterministic_ops`. To find that bits differ is a result, not
a failure.
"""

import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from benchmarks.gpu.learn import stopped_in_time
from benchmarks.gpu.overhead import settings, tiny
from benchmarks.gpu.parts import Clock, Entries, Part, differing, items
from benchmarks.measure.timing import interleave
from benchmarks.throughput.measure import cached_in
from benchmarks.throughput.programs import Update
from train.checkpoint.checkpointer import Checkpointer
from train.config import Config

FLAGS: dict[str, dict[str, Any]] = {
    "as usual": {},
    "deterministic ops": {"xla_gpu_deterministic_ops": True},
}
TRAIN = (
    "--preset gpld --env pendulum-swingup --size 1m --train-ratio 64 --steps 6000 "
    "--replay-size 3000 --log-every 500 --eval-every 6000 --save-every 2000"
)
TINY = (
    "--preset smoke --env toy-target --penalty xla --steps 2000 --log-every 40 "
    "--save-every 400 --eval-every 1000"
)
ITEM_SECONDS = 60.0
"""No item is begun with less time left: it compiles the update, or trains."""


def updates(
    clock: Clock,
    *,
    config: Callable[[], Config] = settings,
    times: int = 20,
    item_seconds: float = ITEM_SECONDS,
) -> Entries:
    """Updates from one state, by the same program again and by one compiled again."""
    parts = Update(config(), times)

    def one(flags: Mapping[str, Any]) -> dict[str, Any]:
        with cached_in(None):  # so that it is compiled, autotuning included
            first = parts.whole(parts.penalty, flags)
            result = first.call()
            again = compare(result, first.call())
            seconds = interleave({"": _waiting(first.call)}, rounds=3)[""]
            jax.clear_caches()
            second = parts.whole(parts.penalty, flags)
            compiled_again = compare(result, second.call())
        return {
            "flags": dict(flags),
            "updates": times,
            "same_program_again": again,
            "compiled_again": compiled_again,
            "compile_seconds": first.compile_seconds,
            "programs": {
                "an update": {"seconds": {"median": statistics.median(seconds) / times}}
            },
        }

    work = {name: partial(one, flags) for name, flags in FLAGS.items()}
    return items(work, clock, item_seconds)


def _waiting(call: Callable[[], object]) -> Callable[[], object]:
    return lambda: jax.block_until_ready(call())


def compare(one: Any, other: Any) -> dict[str, Any]:
    """Whether two results have the same bits, and how far apart they are."""
    paths = differing(one, other)
    furthest: float | None = 0.0
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jax.numpy.issubdtype(x.dtype, jax.numpy.floating) and x.size:
            x, y = (np.asarray(z, np.float64) for z in (x, y))
            scale = max(float(np.max(np.abs(x))), 1e-30)
            gap = float(np.max(np.abs(x - y))) / scale
            if furthest is None or not np.isfinite(gap):
                furthest = None  # JSON has no word for it
            else:
                furthest = max(furthest, gap)
    return {
        "bitwise": not paths,
        "leaves": len(jax.tree.leaves(one)),
        "leaves_that_differ": len(paths),
        "largest_difference_to_largest_entry": furthest,
    }


def training(
    clock: Clock, *, words: str = TRAIN, item_seconds: float = ITEM_SECONDS
) -> Entries:
    """Whole runs of one seed: twice unbroken, and once stopped and resumed.

    They share the compilation cache, as runs on one machine do; so they also share
    what autotuning chose.
    """
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        work: dict[str, Callable[[], dict[str, Any]]] = {}
        for name, flags in FLAGS.items():
            said = " ".join(f"--{key}={value}".lower() for key, value in flags.items())
            arm = home / name.replace(" ", "-")
            go = partial(_unbroken, words, said, clock)
            work[f"{name}: the first run"] = partial(go, arm / "a")
            work[f"{name}: the same seed again"] = partial(
                _same_run, partial(go, arm / "b"), arm / "a", arm / "b"
            )
            work[f"{name}: stopped and resumed"] = partial(
                _same_run,
                partial(_resumed, words, said, clock, arm / "c"),
                arm / "a",
                arm / "c",
            )
        yield from items(work, clock, item_seconds)


def _unbroken(words: str, flags: str, clock: Clock, run_dir: Path) -> dict[str, Any]:
    return {"flags": flags, "exits": [_start(words, flags, clock, run_dir)]}


def _resumed(words: str, flags: str, clock: Clock, run_dir: Path) -> dict[str, Any]:
    first = _start(words, flags, clock, run_dir, stop_after_save=True)
    return {"flags": flags, "exits": [first, _start(words, flags, clock, run_dir)]}


def _same_run(
    make: Callable[[], dict[str, Any]], one: Path, other: Path
) -> dict[str, Any]:
    made = make()
    logs = [(path / "metrics.jsonl").read_bytes() for path in (one, other)]
    states = [_state(path) for path in (one, other)]
    return {
        **made,
        "same_log": logs[0] == logs[1],
        "lines_until_the_log_differs": _common_lines(*logs),
        "lines": len(logs[0].splitlines()),
        "last_checkpoint": compare(*states),
    }


def _common_lines(one: bytes, other: bytes) -> int:
    count = 0
    for x, y in zip(one.splitlines(), other.splitlines(), strict=False):
        if x != y:
            break
        count += 1
    return count


def _state(run_dir: Path) -> dict[str, np.ndarray]:
    """The arrays of a run's last checkpoint by path, as the files hold them."""
    step = Checkpointer(run_dir).steps()[-1]
    arrays = run_dir / "checkpoints" / f"{step:012d}" / "arrays"
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=True)
    read = ocp.Checkpointer(handler)
    item = read.metadata(arrays.absolute()).item_metadata
    assert item is not None
    tree = item.tree
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    return read.restore(arrays.absolute(), restore_args=as_numpy)


def _start(
    words: str,
    flags: str,
    clock: Clock,
    run_dir: Path,
    *,
    stop_after_save: bool = False,
) -> int:
    """One start of `train.main`; its exit status.

    Raises:
        RuntimeError: it ended otherwise than by finishing or by the stop asked for.
    """
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    saved = lambda: bool(Checkpointer(run_dir).steps())
    code, said = stopped_in_time(
        [
            *(sys.executable, "-m", "train.main", *words.split()),
            *("--logdir", str(run_dir)),
        ],
        run_dir.with_suffix(".log"),
        until_stop=clock() - 10,
        until_kill=clock() - 5,
        stop_when=saved if stop_after_save else None,
        flags=flags,
    )
    print(said)
    if code != (143 if stop_after_save else 0):
        last = " | ".join(said.splitlines()[-4:])
        raise RuntimeError(f"exit status {code}: {last}")
    return code


PARTS = {
    "updates": Part(
        updates, 230, partial(updates, config=tiny, times=2, item_seconds=0.0)
    ),
    "training": Part(training, 290, partial(training, words=TINY, item_seconds=0.0)),
}
"""520 seconds in all."""
