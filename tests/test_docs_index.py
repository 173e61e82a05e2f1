"""docs/index.md: its Python excerpts run, with small sizes, as they stand there."""

import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_run import configured, shared

from core.agent import Agent
from core.sizes import ModelSize
from train.checkpoint.checkpointer import Checkpointer
from train.export import files
from train.run_dir import record

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "index.md"
SECTION = PAGE.read_text("utf-8").split("## In a notebook")[1].split("\n## ")[0]
EXCERPTS = re.findall(r"```python\n(.*?)```", SECTION, flags=re.DOTALL)


def run(excerpt: str, **names: Any) -> dict[str, Any]:
    exec(compile(excerpt, PAGE.name, "exec"), names)
    return names


def test_all_excerpts_are_tried_here():
    assert [text.splitlines()[0].split()[1] for text in EXCERPTS] == [
        "jax",
        "train",
        "train.policy",
        "numpy",
        "envs",
    ]


def test_a_world_model_observes_dreams_and_is_penalized(capsys):
    names = run(EXCERPTS[0])
    assert names["seen"].states.deter.shape == (10, 64)
    assert names["dream"].deter.shape == (15, 64)
    assert 0 < float(capsys.readouterr().out) < 1e3


@pytest.mark.long
def test_a_run_from_python(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = run(EXCERPTS[1])
    result = names["result"]
    assert result.exit_code == 0 and result.run_dir == pathlib.Path("runs/toy")
    assert result.config.env == "toy-target" and result.config.preset == "smoke"
    assert names["policy"](np.zeros(1, np.float32)).shape == (1,)
    assert len(result.curves("train/loss/total")) == 1
    assert "finished at environment step" in capsys.readouterr().out


def test_the_agent_of_a_run_acts(tmp_path, monkeypatch):
    run_dir = tmp_path / "runs" / "my-run"
    run_dir.mkdir(parents=True)
    record.write(configured(), run_dir / "config.json")
    assert Checkpointer(run_dir).save(40, shared().filled(), {"updates": 1})
    monkeypatch.chdir(tmp_path)
    names = run(EXCERPTS[2], obs=np.zeros(1, np.float32))
    assert isinstance(names["action"], np.ndarray)
    assert np.all(np.abs(names["action"]) <= 1)


# dm_control's own, with this version of numpy.
@pytest.mark.filterwarnings("ignore:Setting the shape on a NumPy array")
def test_an_exported_agent_plays_an_episode_of_dm_control(tmp_path, monkeypatch):
    size = ModelSize(deter=16, hidden=8, classes=3, units=8, stoch=4, blocks=2)
    agent = Agent(24, 6, key=jax.random.key(0), size=size)
    files.write(tmp_path / "policy", agent, (24,), {"action_repeat": 2})
    monkeypatch.chdir(tmp_path / "policy")
    monkeypatch.syspath_prepend(tmp_path / "policy")
    names = run(EXCERPTS[3])
    assert names["time"].last() and names["action"].shape == (6,)
    assert 0 < names["total"] < 1000


def test_an_environment_steps_under_another_gravity():
    assert '"walker-walk"' in EXCERPTS[4]  # slower to compile than a pendulum
    small = EXCERPTS[4].replace('"walker-walk"', '"pendulum-swingup"')
    names = run(small, jax=jax, jnp=jnp)  # imported by the first excerpt
    assert names["timestep"].obs.shape == names["env"].spec.obs_shape
    assert float(names["state"].parameters.gravity) == pytest.approx(4.0)
