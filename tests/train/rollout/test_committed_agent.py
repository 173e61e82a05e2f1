"""agents/: a trained agent that comes with the repository is read and acts."""

import pathlib
import shutil

import numpy as np
import pytest

from train.policy import load_policy
from train.preflight.setup import make_env
from train.rollout.scores import Episodes, load_agents, make_scorer
from train.run_dir.record import read_run

AGENTS = pathlib.Path(__file__).parents[3] / "agents"
RUNS = sorted(path.parent for path in AGENTS.glob("*/config.json"))

pytestmark = pytest.mark.usefixtures("quick_compiles")


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_there_is_one():
    assert [path.name for path in RUNS] == ["cartpole-swingup"]


@pytest.mark.parametrize("run_dir", RUNS, ids=lambda path: path.name)
def test_it_is_small(run_dir):
    """In every clone: parameters and short logs, neither optimizer nor replay."""
    assert sum(map(len, contents(run_dir).values())) < 3_200_000
    assert not (run_dir / "checkpoints").exists()


@pytest.mark.parametrize("run_dir", RUNS, ids=lambda path: path.name)
def test_it_acts_and_nothing_is_written(run_dir, tmp_path):
    """Mode bits do not hold back root, so the files are compared as well."""
    copied = tmp_path / run_dir.name
    shutil.copytree(run_dir, copied)
    for path in (copied, *copied.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = contents(copied)
    policy = load_policy(copied, batch=64)
    rng = np.random.default_rng(0)
    for _ in range(3):
        action = policy(rng.normal(size=(64, 5)))
        assert action.shape == (64, 1)
        assert np.all(np.isfinite(action)) and np.all(np.abs(action) <= 1)
    assert np.std(action) > 0.1  # it looks at what it sees
    assert contents(copied) == before
    for path in (copied, *copied.rglob("*")):  # for pytest to remove it
        path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.mark.long
def test_it_swings_the_pole_up():
    """Random actions earn less than 100, a pole that is balanced throughout 1000."""
    (run_dir,) = RUNS
    config = read_run(run_dir)
    env = make_env(config)
    step, (agent,) = load_agents(run_dir, config, env)
    (score,) = make_scorer(env, Episodes(count=2, seed=0))(agent)
    assert step == 100_064 and config.env == "cartpole-swingup"
    assert score.decisions.tolist() == [500, 500] and not score.cut_off.any()
    assert np.all(score.returns > 250)
