"""Shared fixtures. Every public signature is checked at run time by jaxtyping.

`pytest --record=PATH` writes what each test did, with date, commit and versions.
"""

import collections
import gc
import itertools
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Compiling is most of the time a test takes, so the programs are kept between runs. It
# is an environment variable, set before jax is imported, for the tests' subprocesses to
# see it too; one that is set already wins, and an empty one turns the cache off. The
# folder is one per host: a program compiled for one CPU may not run on another.
_CACHE_HOME = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(_CACHE_HOME / "smooth-dreamer" / "jax-tests" / (platform.node() or "host")),
)
# Small programs are most of the thousands, and read faster than they are compiled.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# The same for Python's own: where the environment forbids bytecode in the source tree,
# each process, of which the suite starts dozens, would compile the source of jax and
# MuJoCo anew, three seconds of the four it takes to import them.
if sys.dont_write_bytecode:
    _BYTECODE = str(_CACHE_HOME / "smooth-dreamer" / "bytecode")
    sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = _BYTECODE
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# No window and no toolkit: figures are drawn in memory.
os.environ.setdefault("MPLBACKEND", "agg")

from jaxtyping import install_import_hook

with install_import_hook(["core", "kernels", "envs", "train"], "beartype.beartype"):
    import core  # noqa: F401
    import envs  # noqa: F401
    import kernels  # noqa: F401
    import train  # noqa: F401

import jax
import pytest
from record import Record

jax.config.update("jax_numpy_rank_promotion", "raise")
gc.set_threshold(20_000)  # as `train.main`: tracing makes objects, and hardly a cycle


@pytest.fixture
def getkey():
    """A function that returns a new PRNG key at every call."""
    root = jax.random.key(0)
    counter = itertools.count()
    return lambda: jax.random.fold_in(root, next(counter))


# JAX compiles a function anew where this differs, as it does not for the option below.
# Else constants would differ in the last digit by what the process compiled before, and
# programs that hold them would be in no compilation cache.
_quick = jax.make_user_context(default_value=False)


@pytest.fixture(scope="module")
def quick_compiles() -> Iterator[None]:
    """XLA leaves out LLVM's slow passes, in modules whose programs run for an instant.

    Compiling is most of the time that those take; what is computed stays the same.
    """

    def turn(*, on: bool) -> None:
        _quick.set_global(on)
        jax.config.update("jax_disable_most_optimizations", on)

    turn(on=True)
    yield
    turn(on=False)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a `gpu` test where there is no GPU; the reason shows up in the report."""
    if item.get_closest_marker("gpu") and jax.default_backend() != "gpu":
        pytest.skip(f"needs a GPU; jax runs on {jax.default_backend()} here")


@pytest.fixture
def tries(record_property: Any) -> Iterator[collections.Counter[str]]:
    """What a test counts by name: `--record` writes it down."""
    counted: collections.Counter[str] = collections.Counter()
    yield counted
    for name, count in sorted(counted.items()):
        record_property(name, count)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two processes for the whole suite, on a machine with as many cores; none else.

    A process starts in seconds, so that a test named on the command line is sooner done
    without; more than two would want more memory than a laptop has.
    """
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return 2 if whole and (os.cpu_count() or 1) > 1 else 0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", type=Path, help="write each test's outcome as JSON")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("record")
    if path is not None and not hasattr(config, "workerinput"):  # not in a worker
        config.pluginmanager.register(Record(path))
