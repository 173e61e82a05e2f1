"""Checkpoints of a process that is killed while it saves."""

import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import pytest

from train.checkpoint.checkpointer import Checkpointer


def test_leftovers_of_a_killed_save_are_removed(tmp_path):
    saver = Checkpointer(tmp_path)
    saver.save(1, {"x": jnp.zeros(3)}, {})
    stale = tmp_path / "checkpoints" / ".unfinished-7-4242"
    (stale / "arrays").mkdir(parents=True)
    (stale / "arrays" / "part").write_bytes(b"x" * 1000)
    assert saver.steps() == [1]
    found = saver.restore({"x": jnp.zeros(3)})
    assert found is not None and found.step == 1
    assert stale.exists()  # a reader touches nothing
    saver.save(2, {"x": jnp.zeros(3)}, {})
    assert not stale.exists() and saver.steps() == [1, 2]


@pytest.mark.long
def test_killed_while_saving(tmp_path):
    """kill -9 at many moments: what is restored is always a whole step."""
    code = (
        "import sys, jax.numpy as jnp\n"
        "from train.checkpoint.checkpointer import Checkpointer\n"
        "saver = Checkpointer(sys.argv[1])\n"
        "saver.save(1, {'x': jnp.full(10**6, 1)}, {'step': 1})\n"
        "print('ready', flush=True)\n"
        "step = 1\n"
        "while True:\n"
        "    step += 1\n"
        "    saver.save(step, {'x': jnp.full(10**6, step)}, {'step': step})\n"
    )
    for delay in (0.03, 0.1):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = Checkpointer(tmp_path).restore({"x": jnp.zeros(10**6, jnp.int32)})
        assert found is not None
        assert (found.tree["x"] == found.step).all()
        assert found.metadata == {"step": found.step}
