"""What saving leaves in memory, in a process of its own."""

import json
import pathlib
import subprocess
import sys

import pytest

SAVES = """
import json, sys
import jax.numpy as jnp
from train.checkpoint import checkpointer

if sys.argv[2] == "kept":
    checkpointer.give_back_memory = lambda: None

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    (line,) = [line for line in lines if line.startswith("RssAnon:")]
    return int(line.split()[1]) / 1024

saver, found = checkpointer.Checkpointer(sys.argv[1]), []
tree = {"images": jnp.ones((20000, 64, 64, 3), jnp.uint8)}
tree |= {f"weight {i}": jnp.ones((64, 64)) for i in range(300)}
for step in range(1, 9):
    assert saver.save(step, tree, {})
    found.append(anonymous())
print(json.dumps(found))
"""


def growth(path: pathlib.Path, what: str) -> float:
    """MiB from the second of eight saves to the last."""
    done = subprocess.run(
        [sys.executable, "-c", SAVES, str(path), what],
        capture_output=True,
        text=True,
        cwd=pathlib.Path(__file__).parents[3],
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return found[-1] - found[1]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_saves_leave_no_memory_behind(tmp_path):
    """And would, were the freed memory kept."""
    assert growth(tmp_path / "returned", "returned") < 2
    assert growth(tmp_path / "kept", "kept") > 4
