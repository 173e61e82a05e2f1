"""Programs that were compiled ahead, kept in files, and run."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import ahead
from benchmarks.gpu.compile import programs
from benchmarks.gpu.compile.programs import Built, OpCase
from benchmarks.gpu.overhead import tiny
from benchmarks.gpu.parts import COMPILED
from benchmarks.overhead.op.cases import HeadShape
from benchmarks.overhead.steps import Bench
from train.errors import UserError

pytestmark = pytest.mark.long


def kept(built: Built, folder: Path, **options: Any) -> None:
    """As `--stage compile --keep` makes it, for the device that is here."""
    mesh = Mesh(np.array(jax.devices()[:1]), ("device",))
    place = NamedSharding(mesh, PartitionSpec())
    args = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), built.args
    )
    lowered = jax.jit(built.fn, donate_argnums=built.donate).lower(*args)
    # What comes from the cache on disk, a CPU cannot write once more (JAX 0.12).
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        compiled = lowered.compile()
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
        compilation_cache.reset_cache()
    ahead.keep(compiled, built.label, "h200", folder, **options)


def test_a_kept_program_is_the_same_program(tmp_path):
    fn = lambda x, y: (x @ y, {"sum": jnp.sum(x)})
    built = Built("a product", fn, (jnp.ones((2, 3)), jnp.arange(3.0)))
    kept(built, tmp_path, flags={"some": 1}, variant="of two words")
    path = ahead.path_of(tmp_path, "a product", "of two words")
    assert path.name == "a-product-of-two-words.compiled"
    program = ahead.load(built, path)
    product, rest = program.call(*ahead.on_cpu(lambda: built.args))
    np.testing.assert_array_equal(product, [3.0, 3.0])
    assert rest["sum"] == 6.0
    assert program.flags == {"some": 1}


def test_other_programs_and_missing_ones_are_refused(tmp_path):
    built = Built("a sine", jnp.sin, (jnp.ones(()),))
    path = ahead.path_of(tmp_path, built.label)
    with pytest.raises(UserError, match=r"there is no a-sine\.compiled"):
        ahead.load(built, path)
    kept(built._replace(label="a cosine"), tmp_path)
    path = ahead.path_of(tmp_path, "a cosine")
    with pytest.raises(UserError, match="is 'a cosine', compiled by JAX"):
        ahead.load(built, path)
    path.write_bytes(b'["0.1.2", "h200", "a sine", {}]\n')
    with pytest.raises(UserError, match=r"compiled by JAX 0\.1\.2"):
        ahead.load(built, path)


@pytest.mark.parametrize(
    "measure",
    (
        partial(ahead.updates, "12m", lambda: 60.0, config=tiny),
        partial(ahead.ops, lambda: 60.0),
        partial(ahead.training, lambda: 60.0),
    ),
)
def test_without_a_folder_it_says_so(measure, monkeypatch):
    monkeypatch.delenv(COMPILED, raising=False)
    ((_, entry),) = measure()
    assert "--compiled DIR" in entry["error"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--stage kernel --compiled .", "--compiled .: allowed with --stage all"),
        ("--stage all --quick --compiled no-such", "there is no such folder"),
        ("--stage compile --xla some=1", "--xla and --variant: allowed with --keep"),
        ("--stage compile --keep x --json y", "allowed: one of the two"),
    ],
)
def test_flags_without_effect_are_refused_in_one_line(flags, says, capsys):
    with pytest.raises(SystemExit) as ended:
        gpu.main(flags.split())
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --") and says in line


def test_updates_are_run_from_their_files(tmp_path, monkeypatch):
    bench = Bench(tiny())

    def step(learner, initial, batch, key):
        mean = jnp.mean(batch.reward)
        grown = lambda x: x + mean.astype(x.dtype) if eqx.is_inexact_array(x) else x
        return jax.tree.map(grown, learner), mean

    def built() -> Iterator[Built]:
        args = (bench.learner, bench.initial, bench.batch, jax.random.key(0))
        yield Built("update-none-tiny", step, args, (0,))

    (program,) = built()
    kept(program, tmp_path)
    kept(program, tmp_path, flags={"some": True}, variant="flagged")
    monkeypatch.setitem(ahead.PROGRAMS, program.label, built)
    monkeypatch.setitem(ahead.UPDATES, "tiny", (program.label,))
    monkeypatch.setenv(COMPILED, str(tmp_path))
    counted = lambda name: {"launches": 7, "name": name}
    found = dict(
        ahead.updates(
            "tiny", lambda: 60.0, config=tiny, counted=counted, calls=2, rounds=2
        )
    )
    rows = "update-none-tiny", "update-none-tiny-flagged"
    times = [f"{row}, time" for row in rows]
    assert list(found) == [*rows, *times, f"{rows[1]}, launches"]
    assert found[rows[0]]["same_bits_again"] is True
    assert found[times[0]]["compiled_without_gpu"] == counted(program.label)
    assert found[times[1]]["flags"] == {"some": True}
    assert found[times[1]]["against"] == rows[0]
    assert found[times[1]]["programs"][rows[1]]["seconds"]["median"] > 0
    assert found[f"{rows[1]}, launches"]["trace"]["operations"] > 0


def test_an_update_that_ends_in_nan_is_no_result(tmp_path, monkeypatch):
    bench = Bench(tiny())

    def step(learner, initial, batch, key):
        spoilt = lambda x: x * jnp.nan if eqx.is_inexact_array(x) else x
        return jax.tree.map(spoilt, learner), jnp.zeros(())

    def built() -> Iterator[Built]:
        args = (bench.learner, bench.initial, bench.batch, jax.random.key(0))
        yield Built("update-none-tiny", step, args, (0,))

    kept(next(built()), tmp_path)
    monkeypatch.setitem(ahead.PROGRAMS, "update-none-tiny", built)
    monkeypatch.setitem(ahead.UPDATES, "tiny", ("update-none-tiny",))
    monkeypatch.setenv(COMPILED, str(tmp_path))
    ((_, entry),) = ahead.updates("tiny", lambda: 60.0, config=tiny, calls=1)
    assert entry["error"].startswith("FloatingPointError")


def test_the_op_is_checked_and_timed(tmp_path, monkeypatch):
    monkeypatch.setitem(programs.SHAPES, "tiny", HeadShape(d=16, h=64, k=2, c=4))
    cases = (
        OpCase("xla", "tiny", 4, 0),
        OpCase("pallas", "tiny", 4, 0),
        OpCase("reference", "tiny", 4, 0, exact_products=True),
    )
    monkeypatch.setattr(ahead, "OPS", cases)
    monkeypatch.setenv(COMPILED, str(tmp_path))
    for case in (cases[0], cases[2]):
        with jax.default_device(jax.devices("cpu")[0]):
            kept(Built(case.label, case.program, case.inputs()), tmp_path)
    ((what, entry),) = ahead.ops(lambda: 60.0, rounds=2)
    assert what == "tiny N=4 1 rademacher"
    assert "there is no op-tiny" in entry["not_measured"]["pallas"]
    assert entry["passed"] is False  # not all was checked
    assert all(array["passed"] for array in entry["arrays"])
    assert len(entry["arrays"]) == 1 + 1 + 5  # value, a, the head
    assert set(entry["implementations"]) == {"xla"}
    # And a wrong one is found.
    wrong = lambda *args: jax.tree.map(lambda x: 1.1 * x, cases[0].program(*args))
    kept(Built(cases[0].label, wrong, cases[0].inputs()), tmp_path)
    ((_, entry),) = ahead.ops(lambda: 60.0, rounds=2)
    assert not all(array["passed"] for array in entry["arrays"])


class _Counts(NamedTuple):
    agent: jax.Array
    updates: jax.Array
    decisions: jax.Array


class _Run(NamedTuple):
    learner: _Counts
    collector: _Counts


class _Out(NamedTuple):
    metrics: dict[str, jax.Array]


def test_a_training_run_is_its_programs_in_order(tmp_path, monkeypatch):
    zero = jnp.zeros((), jnp.int32)

    def start(key):
        counts = _Counts(jax.random.normal(key), zero, zero)
        return _Run(counts, counts)

    def prefill(run):
        return run._replace(collector=run.collector._replace(decisions=zero + 32)), zero

    def cycle(run):
        learner = run.learner._replace(updates=run.learner.updates + 8)
        more = run.collector._replace(decisions=run.collector.decisions + 16)
        return _Run(learner, more), _Out({"loss": more.decisions.astype(float)})

    key = jax.random.key(0)
    run = start(key)
    built = {
        "before-training": [
            Built("start", start, (key,)),
            Built("prefill", prefill, (run,)),
        ],
        "chunk": [Built("chunk", cycle, (run,))],
    }
    for name, each in built.items():
        monkeypatch.setitem(ahead.PROGRAMS, name, partial(iter, each))
        for program in each:
            kept(program, tmp_path)
    monkeypatch.setenv(COMPILED, str(tmp_path))
    ((_, entry),) = ahead.training(lambda: 60.0, chunks=3)
    assert (entry["updates_in_a_cycle"], entry["decisions_in_a_cycle"]) == (8, 16)
    assert entry["metrics"] == [{"loss": 48.0}, {"loss": 80.0}]
    assert entry["finite"] is True
    assert entry["updates_per_second_of_the_cycle"] > 0
