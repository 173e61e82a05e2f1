"""`python -m benchmarks.robustness --known`: results of several calls in one."""

import json

import pytest
from robust_runs import save_runs

from benchmarks.robustness import known
from benchmarks.robustness.__main__ import main

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return save_runs(tmp_path_factory.mktemp("robust"))


def test_known_results_stand_beside(runs, tmp_path, capsys):
    """As if all runs had been played by one call; an agent counts once."""
    words = {
        "all": runs,
        "part": runs[:2],
        "rest": [runs[2], "--known", str(tmp_path / "part")],
    }
    found = {}
    for name, given in words.items():
        out = tmp_path / name
        assert main(["--quick", "--json", str(out), "--run", *given]) == 0
        found[name] = json.loads(out.read_text())
        del found[name]["provenance"]
    assert found["rest"] == found["all"]
    again = known.joined(found["part"], [found["rest"], found["part"]])
    assert again["arms"] == found["all"]["arms"] and "2 seeds" in again["arms"][0]
    assert len(again["surface"]["agents"]) == len(again["final"]) == 3


def test_known_results_are_of_the_same_conditions(runs, tmp_path, capsys):
    """Refused before anything is played."""
    path = tmp_path / "known.json"
    words = ["--run", runs[2], "--only", "grids", "--known", str(path)]
    plan = {"task": "toy-target", "obs": "state", "episodes": 5, "seed": 0}
    plan |= {"eval_policy": "mode", "max_decisions": None, "surface": None}
    plan |= {"copies": 8, "decisions": 200}
    plan |= {"settings": {}, "final": [], "kinds": []}
    for change, said in (
        ({"seed": 1}, "has seed 1, not 0"),
        ({"max_decisions": 9}, "has max_decisions 9, not None"),
        ({"decisions": 10}, "has decisions 10, not 200"),
        ({}, "has grids [], not [('noise', ['clean', 'noise:0.01',"),
    ):
        path.write_text(json.dumps(plan | change))
        assert main(words) == 2
        assert said in capsys.readouterr().err
    path.write_text("{}")
    assert main(words) == 2
    assert "allowed: a result of benchmarks.robustness" in capsys.readouterr().err
    path.unlink()
    assert main(words) == 2
    assert "cannot be read" in capsys.readouterr().err
