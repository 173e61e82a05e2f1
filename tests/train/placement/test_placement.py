"""Several devices as one: what each holds, and that they compute the same."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from train.config.cli import parse
from train.errors import UserError
from train.placement.placement import Placement, check_division, choose_devices

pytestmark = pytest.mark.long

ROOT = pathlib.Path(__file__).parents[3]
SMOKE = "--preset smoke --env toy-target"


def case(*words: str) -> dict:
    """What `scale_case.py` prints, run where the CPU stands for 8 devices."""
    child = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "support" / "scale_case.py"), *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        # The kernel's interpreter asks how many threads it may have.
        env=os.environ | {"NPROC": "8"},
    )
    assert child.returncode == 0, child.stderr[-3000:]
    return json.loads(child.stdout.splitlines()[-1])


def check_same(found: dict) -> None:
    """The same losses and rows, and parameters to a small share of their way."""
    assert found["updates"] >= 20
    assert found["moved"] > 1e-3
    for other in found["others"]:
        assert other["updates"] == found["updates"]
        assert other["losses"] < 1e-3 * found["largest_loss"]
        assert other["agent"] < 0.02
        assert other["rows"] < 1e-3
        # Where two categories are all but equally near, the last bit of a sum decides.
        assert other["latents"] < 0.005
        assert other.get("returns", 0.0) < 1e-3


def test_eight_devices_are_one():
    """20 updates, acting between them, with the penalty."""
    check_same(case("same", "1,8"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--seeds", "4", "--penalty", "none"],
        ["--penalty-target", "both", "--rho", "0.25", "--num-envs", "4"],
        ["--penalty-target", "core"],
        ["--env", "cartpole-balance"],
    ],
    ids=" ".join,
)
def test_two_and_four_devices_are_one(words):
    check_same(case("whole", "1,2,4", *words))


def test_the_kernel_divides_its_states():
    """On 4 devices, which divide 12 states, and on 8, which do not."""
    found = case("kernel", "1,4,8")
    assert found["size"] > 0.01
    assert max(found["others"]) < 1e-4 * found["size"]


def test_each_device_keeps_its_part_of_the_replay():
    found = case("memory", "1,2,8")
    replay, agent = found["1"]
    assert found["2"] == [replay / 2, agent]
    assert found["8"] == [replay / 8, agent]


def test_whole_seeds_are_placed():
    found = case("memory", "1,4", "--seeds", "4")
    assert found["4"] == [size / 4 for size in found["1"]]


@pytest.mark.parametrize(
    ("words", "devices", "said"),
    [
        (
            "--batch-size 6 --num-envs 8",
            4,
            "--batch-size 6.*nearest valid: --devices 2",
        ),
        ("--batch-size 8 --num-envs 6", 8, "--num-envs 6.*as 8; nearest.*--devices 2"),
        ("--seeds 3", 2, "--seeds 3.*as 4; nearest valid: --devices 1"),
    ],
)
def test_work_that_does_not_divide(words, devices, said):
    config = parse(f"{SMOKE} {words}".split(), "cpu")
    with pytest.raises(UserError, match=said):
        check_division(config, devices)


def test_more_devices_than_there_are():
    config = parse(f"{SMOKE} --devices 1000".split(), "cpu")
    with pytest.raises(UserError, match=r"--devices 1000: JAX sees \d+ \(CPU\)"):
        choose_devices(config)


def test_one_device_is_what_it_was():
    """No mesh, no sharding: the programs of a single device."""
    place = Placement.of(parse(SMOKE.split(), "cpu"))
    assert place.mesh is None and len(place.devices) == 1
    with place.active():
        assert place.compile(lambda x: 2 * x)(3) == 6
