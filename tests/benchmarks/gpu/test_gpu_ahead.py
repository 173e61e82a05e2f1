"""Programs that were compiled ahead, kept in files, and run."""

import pickle
from collections.abc import Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from benchmarks.gpu import ahead
from benchmarks.gpu.compile.programs import Built
from benchmarks.gpu.overhead import tiny
from benchmarks.gpu.parts import COMPILED
from benchmarks.overhead.steps import Bench
from train.errors import UserError


@pytest.fixture(autouse=True)
def fresh():
    """What comes from the cache on disk, a CPU cannot write once more (JAX 0.12)."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


def test_a_kept_program_is_the_same_program(tmp_path):
    fn = lambda x, y: (x @ y, {"sum": jnp.sum(x)})
    args = (jnp.ones((2, 3)), jnp.arange(3.0))
    built = Built("a product", fn, args)
    ahead.keep(jax.jit(fn).lower(*args).compile(), built.label, "h200", tmp_path)
    product, rest = ahead.load(built, tmp_path)(*args)
    np.testing.assert_array_equal(product, [3.0, 3.0])
    assert rest["sum"] == 6.0


def test_programs_of_another_version_and_missing_ones_are_refused(tmp_path):
    built = Built("a product", jnp.sin, (jnp.ones(()),))
    with pytest.raises(UserError, match=r"there is no a-product\.compiled"):
        ahead.load(built, tmp_path)
    kept = ahead.Kept("0.1.2", "h200", b"")
    ahead.path_of(tmp_path, built.label).write_bytes(pickle.dumps(kept))
    with pytest.raises(UserError, match=r"compiled by JAX 0\.1\.2"):
        ahead.load(built, tmp_path)


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
    compiled = jax.jit(program.fn, donate_argnums=0).lower(*program.args).compile()
    ahead.keep(compiled, program.label, "h200", tmp_path)
    monkeypatch.setitem(ahead.PROGRAMS, "tiny", built)
    monkeypatch.setitem(
        ahead.PROGRAMS,
        "missing",
        lambda: iter([program._replace(label="missing")]),
    )
    measure = lambda: dict(
        ahead.updates(
            lambda: 60.0,
            names=("tiny", "missing"),
            config=tiny,
            counted=lambda name: {"launches": 7},
            calls=2,
            rounds=2,
        )
    )
    (refused,) = measure().values()
    assert "--compiled" in refused["error"]
    monkeypatch.setenv(COMPILED, str(tmp_path))
    found = measure()
    assert found["tiny"] == {"updates": 2, "finite": True}
    assert "there is no missing.compiled" in found["missing"]["error"]
    time = found["tiny, time"]["programs"]["tiny"]["seconds"]
    assert time["low"] <= time["median"] <= time["high"]
    assert found["tiny, time"]["compiled_without_gpu"] == {"launches": 7}
    assert found["tiny, launches"]["trace"]["operations"] > 0
