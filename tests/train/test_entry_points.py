"""The promised imports and commands exist; one fresh process tries all of them."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks import BENCHMARKS

COMMANDS = [f"train.{x}" for x in ("main", "evaluate", "play", "export", "watch")]
COMMANDS += [f"benchmarks.{x}" for x in BENCHMARKS]

SCRIPT = """
import contextlib, io, json, runpy, sys

from core.rssm import RSSM
import core.penalty
from kernels import CategoricalHead, jacobian_penalty, jacobian_penalty_mean
import envs, envs.gym
from train.policy import load_policy

for thing in (RSSM, CategoricalHead, jacobian_penalty, jacobian_penalty_mean,
              load_policy, core.penalty.PenaltyOptions, envs.make, envs.VectorEnv,
              envs.from_mjx, envs.from_jax, envs.register, envs.gym.make):
    assert callable(thing), thing
assert "walker-walk" in envs.TASKS

answers = {}
for name in sys.argv[1:]:
    out, code = io.StringIO(), None
    sys.argv = [name, "--help"]
    with contextlib.redirect_stdout(out):
        try:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        except SystemExit as leaving:
            code = leaving.code
    answers[name] = [code, out.getvalue()]
print(json.dumps(answers))
"""


def test_every_promised_import_and_help():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *COMMANDS],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers = json.loads(done.stdout.splitlines()[-1])
    assert list(answers) == COMMANDS
    for name, (code, text) in answers.items():
        assert code == 0, (name, code, text[-500:])
        assert f"usage: python -m {name}" in " ".join(text.split()), name
