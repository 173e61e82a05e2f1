"""`train.run`: the command line's flags from Python."""

import subprocess
import sys

import pytest
from toy_run import SMOKE

import train
from train.config import Config
from train.config.cli import parse
from train.errors import UserError
from train.main import words

pytestmark = pytest.mark.long


def test_flags_are_those_of_the_command_line():
    flags = {"env": "toy-target", "learning_rate": 1e-4, "core_carry": False}
    wanted = "--env toy-target --learning-rate 0.0001 --no-core-carry"
    assert words(flags) == wanted.split()
    flags = {"require_gpu": True, "probes": None, "sweep": ["eps=1,2", "beta1=0,1"]}
    wanted = "--require-gpu --probes none --sweep eps=1,2 --sweep beta1=0,1"
    assert words(flags) == wanted.split()
    config = parse([*SMOKE.split(), *words({"rho": 0.25})], "cpu")
    assert config.penalty.rho == 0.25


def test_a_configuration_is_run_and_gone_on_with(tmp_path, capsys):
    given = f"{SMOKE} --logdir {tmp_path / 'run'}"
    config = parse(given.split(), "cpu")
    result = train.run(config)
    assert result == train.Result(tmp_path / "run", 0)
    assert result.config == config
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(f": python -m benchmarks.report {tmp_path / 'run'}")
    last = result.curves()[0].evaluation.steps[-1]
    assert last >= 400
    again = train.run(config)  # nothing is left to do
    assert again.curves()[0].evaluation.steps[-1] == last


def test_mistakes_are_the_command_lines():
    with pytest.raises(UserError, match=r"--env wlaker: unknown.*nearest valid"):
        train.run(env="wlaker")
    with pytest.raises(UserError, match="--stpes: unknown flag"):
        train.run(stpes=5)
    with pytest.raises(TypeError, match="not both"):
        train.run(Config(preset="smoke"), steps=5)
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        getattr(train, "runn")  # noqa: B009


def test_importing_the_package_loads_nothing_else():
    code = (
        "import sys, train; print({'jax', 'mujoco', 'train.main'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
