"""`python -m benchmarks.robustness.study`: the whole of the paper in one command."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.robustness import study
from benchmarks.suite.declare import load

ARMS = ("none", "core", "zero-1", "zero-1-core")


def test_the_quick_suite_is_a_two_by_two_design():
    suite = load(study.SUITE)
    assert suite.arms == ARMS and suite.baseline == "none"
    (task,) = suite.tasks
    found = {arm: suite.configs[task, arm] for arm in ARMS}
    penalized = {arm: config.penalty.target for arm, config in found.items()}
    assert penalized["core"] == penalized["zero-1-core"] == "core"
    off = {
        arm for arm, config in found.items() if config.penalty.implementation == "none"
    }
    assert off == {"none", "zero-1"}
    errors = {arm: config.latent.kind for arm, config in found.items()}
    assert set(errors.values()) == {"none", "zero-drift"}
    assert errors["zero-1"] == errors["zero-1-core"] == "zero-drift"


@pytest.mark.parametrize("name", [study.SUITE, "robustness"])
def test_each_command_can_be_given_alone(name, tmp_path):
    """Their own parsers take the words; of a task all runs are in the surface."""
    suite = load(name)
    found = list(study.commands(suite, name, tmp_path))
    assert len(found) == 1 + 2 * len(suite.tasks)
    for module, *words in found:
        command = importlib.import_module(f"{module}.__main__")
        parser = command._parser(*(["suite"] if module.endswith("suite") else []))
        options = parser.parse_args(words)
        assert options.json.parent == options.png.parent == tmp_path
        if module.endswith("robustness"):
            assert len(options.run) == len(suite.arms) * len(suite.seeds)
            assert len(set(options.run)) == len(options.run)
        if module.endswith("trust"):
            runs = [options.run, *options.compare]
            assert [run.parent.name for run in runs] == list(suite.arms)


def test_the_first_failure_ends_it(tmp_path, monkeypatch, capsys):
    began = []

    def fails(words, check):
        began.append(words[2])
        code = 1 if words[2] == "benchmarks.robustness" else 0
        return subprocess.CompletedProcess(words, code)

    monkeypatch.setattr(study.subprocess, "run", fails)
    assert study.main(["--folder", str(tmp_path)]) == 1
    assert began == ["benchmarks.suite", "benchmarks.robustness"]
    assert "$ python -m benchmarks.robustness --run" in capsys.readouterr().out


@pytest.mark.slow
def test_the_quick_study_ends_in_twenty_minutes(tmp_path):
    """On two cores: training, grids, surface, and the theorems' terms."""
    folder = tmp_path / "study"
    command = [sys.executable, "-m", "benchmarks.robustness.study"]
    done = subprocess.run(
        [*command, "--folder", str(folder)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        timeout=20 * 60,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (task,) = load(study.SUITE).tasks
    read = lambda stem: json.loads((folder / f"{stem}.json").read_text("utf-8"))
    result = read(f"robustness-{task}")
    assert len(result["arms"]) == len(result["final"]) == len(ARMS)
    assert [x["name"] for x in result["kinds"]] == [
        "noise",
        "gravity",
        "mass",
        "latent",
    ]
    surface = result["surface"]
    assert len(surface["agents"]) == 2 * len(ARMS)  # of two checkpoints
    assert np.all(np.isfinite(surface["returns"]))
    assert set(surface["norms"]) == {"posterior", "prior", "recurrent map"}
    assert min(map(min, surface["norms"].values())) > 0
    assert surface["correlations"]["recurrent map"]["drop"]["agents"] == 2 * len(ARMS)
    trusted = read(f"trust-{task}")["agents"]
    assert [agent["run"] for agent in trusted] == [f"{arm}/seed-0" for arm in ARMS]
    for summary in (agent["summary"] for agent in trusted):
        assert summary["latent noise"]["standard error"] > 0
        assert summary["initial error"]["flow"] > 0
        assert np.isfinite(summary["curvature"]["trace"])
    assert {path.suffix for path in folder.glob("*-*.*")} == {".json", ".png"}
