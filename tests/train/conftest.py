"""Fixtures that several tests of training share."""

import pytest
from toy_run import Toy, log_lines


@pytest.fixture(scope="module")
def whole(toy: Toy, tmp_path_factory: pytest.TempPathFactory):
    """An unbroken run of the module's toy: its directory, final state and log."""
    run_dir = tmp_path_factory.mktemp("whole")
    run, code = toy.train(run_dir)
    assert code == 0
    return run_dir, run, log_lines(run_dir)
