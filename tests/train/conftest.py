"""Fixtures that several tests of training share."""

from collections.abc import Iterator

import jax
import pytest
from toy_run import Toy, log_lines


@pytest.fixture(scope="module")
def quick_compiles() -> Iterator[None]:
    """Compiling is most of the time of such a module; the programs stay the same."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def whole(toy: Toy, tmp_path_factory: pytest.TempPathFactory):
    """An unbroken run of the module's toy: its directory, final state and log."""
    run_dir = tmp_path_factory.mktemp("whole")
    run, code = toy.train(run_dir)
    assert code == 0
    return run_dir, run, log_lines(run_dir)
