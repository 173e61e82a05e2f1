"""Exported policies give the agent's actions, without this project."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_run import Toy, configured, shared

from core.agent import Agent
from core.latents import Gaussian, Latents
from core.sizes import ModelSize
from train.checkpoint.checkpointer import Checkpointer
from train.export import files, numpy_policy
from train.export.__main__ import main
from train.run_dir import record

SIZE = ModelSize(deter=16, hidden=8, classes=3, units=8, cnn_depth=2, stoch=4, blocks=2)
BATCH, ACTIONS, STEPS = 3, 2, 4


def trained(obs_size: Any, latents: Latents | None = None) -> Agent:
    """An agent with weights of usual sizes everywhere; new output layers are zero."""
    key = jax.random.key(0)
    agent = Agent(obs_size, ACTIONS, key=key, size=SIZE, latents=latents)
    leaves, tree = jax.tree.flatten(agent)
    rng = np.random.default_rng(1)
    noise = [jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype) for x in leaves]
    return tree.unflatten([a + b for a, b in zip(leaves, noise, strict=True)])


def observations(shape: tuple[int, ...]) -> Any:
    rng = np.random.default_rng(2)
    if len(shape) == 3:
        return rng.integers(0, 256, (STEPS, BATCH, *shape)).astype(np.uint8)
    return rng.normal(size=(STEPS, BATCH, *shape)).astype(np.float32)


@pytest.fixture(params=["state", "pixels", "gaussian"], scope="module")
def case(request, tmp_path_factory):
    """An agent, its observation's shape, and the folder it was exported to."""
    shape = (16, 32, 3) if request.param == "pixels" else (5,)
    size = shape if request.param == "pixels" else 5
    agent = trained(size, Gaussian(0.1) if request.param == "gaussian" else None)
    folder = tmp_path_factory.mktemp("export") / "new" / "folder"
    files.write(folder, agent, shape, {"env": "toy"})
    return agent, shape, folder


def played(agent: Agent, shape: tuple[int, ...]) -> list[Any]:
    """What the agent does, with the random numbers and first steps it had."""
    state, action = agent.model.rssm.initial(BATCH), jnp.zeros((BATCH, ACTIONS))
    found = []
    for time, obs in enumerate(observations(shape)):
        first = jnp.array([time == 0, time in (0, 2), time == 0])
        key = jax.random.key(time)
        explore = time % 2 == 1
        state, action = agent.act(state, obs, action, first, key=key, explore=explore)
        observe_key, action_key = jax.random.split(key)
        uniforms = jax.random.uniform(observe_key, (1, BATCH, SIZE.stoch))[0]
        noise = jax.random.normal(action_key, (BATCH, ACTIONS)) * explore
        found.append((obs, first, uniforms, noise, action))
    return found


def test_numpy_acts_as_the_agent(case):
    agent, shape, folder = case
    policy = numpy_policy.Policy(folder / "policy.npz", batch=BATCH)
    for obs, first, uniforms, noise, action in played(agent, shape):
        ours = policy.step(obs, first, np.asarray(uniforms), np.asarray(noise))
        np.testing.assert_allclose(ours, action, atol=2e-5)


def test_the_jax_program_acts_as_the_agent(case):
    agent, shape, folder = case
    data = bytearray((folder / "policy.jaxexport").read_bytes())
    program = jax.export.deserialize(data)
    assert set(program.platforms) == set(files.PLATFORMS)
    carry = (
        jnp.zeros((BATCH, SIZE.deter)),
        agent.model.rssm.initial(BATCH).stoch,
        jnp.zeros((BATCH, ACTIONS)),
    )
    for obs, first, uniforms, noise, action in played(agent, shape):
        carry, ours = program.call(carry, obs, first, (uniforms, noise))
        np.testing.assert_allclose(ours, action, atol=2e-5)


def test_the_file_needs_numpy_alone(case):
    _, shape, folder = case
    code = (
        "import sys; from numpy_policy import Policy; import numpy as np\n"
        "policy = Policy('policy.npz', explore=True)\n"
        f"x = np.ones({shape}, np.uint8 if {len(shape)} == 3 else np.float32)\n"
        "assert policy(x).shape == (2,) and abs(policy(x)).max() <= 1\n"
        "assert not {'jax', 'equinox', 'train', 'core'} & set(sys.modules)\n"
        "print(policy.facts['env'])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "toy", "")


def test_a_policy_forgets_and_checks_shapes(case):
    _, shape, folder = case
    policy = numpy_policy.Policy(folder / "policy.npz", batch=BATCH)
    policy(observations(shape)[0])
    assert np.abs(policy.h).max() > 0
    policy.reset()
    assert np.abs(policy.h).max() == 0
    with pytest.raises(ValueError, match=r"obs has shape .*takes"):
        policy(observations(shape)[0][:1])


@pytest.fixture(scope="module")
def toy() -> Toy:
    return shared()


@pytest.mark.long
def test_a_run_is_exported(toy, tmp_path, capsys):
    record.write(configured(), tmp_path / "config.json")
    assert Checkpointer(tmp_path).save(40, toy.filled(), {"updates": 1})
    folder = tmp_path / "policy"
    assert main(["--run", str(tmp_path), "--to", str(folder)]) == 0
    names = {"policy.npz", "policy.jaxexport", "policy.json", "numpy_policy.py"}
    assert {path.name for path in folder.iterdir()} == names
    assert "policy.npz" in capsys.readouterr().out
    facts = json.loads((folder / "policy.json").read_text())
    assert facts["step"] == 40 and facts["provenance"]["versions"]
    policy = numpy_policy.Policy(folder / "policy.npz")
    assert policy(np.ones(facts["obs_shape"])).shape == (facts["action_size"],)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "x"], "--run: not given"),
        (["--run", "x"], "--to: not given"),
        (["--run", "no-such", "--to", "x"], "--run no-such"),
    ],
)
def test_mistakes_are_answered_in_one_line(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_file_is_no_folder(toy, tmp_path, capsys):
    record.write(configured(), tmp_path / "config.json")
    path: Path = tmp_path / "file"
    path.write_text("")
    assert main(["--run", str(tmp_path), "--to", str(path)]) == 2
    assert "is a file" in capsys.readouterr().err
