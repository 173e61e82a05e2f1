"""Names, specs, models and what importing brings along."""

import importlib.util
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import parity
import pytest

import envs
from envs.mjx._mjx import mujoco
from envs.mjx.assets import assets_folder, load_model
from envs.mjx.env import MjxEnv

OBS_SIZES = {
    "acrobot": 6,
    "ball_in_cup": 8,
    "cartpole": 5,
    "cheetah": 17,
    "finger": 12,  # 9 for spin, which has no target
    "hopper": 15,
    "pendulum": 3,
    "quadruped": 78,
    "reacher": 6,
    "toy": 1,
    "walker": 24,
}
ACTION_SIZES = {
    "acrobot": 1,
    "ball_in_cup": 2,
    "cartpole": 1,
    "cheetah": 6,
    "finger": 2,
    "hopper": 4,
    "pendulum": 1,
    "quadruped": 12,
    "reacher": 2,
    "toy": 1,
    "walker": 6,
}


def test_tasks():
    assert set(envs.TASKS) >= {
        "acrobot-swingup",
        "acrobot-swingup_sparse",
        "cartpole-balance",
        "cartpole-balance_sparse",
        "cartpole-swingup",
        "cartpole-swingup_sparse",
        "cheetah-run",
        "finger-spin",
        "finger-turn_easy",
        "finger-turn_hard",
        "hopper-hop",
        "hopper-stand",
        "pendulum-swingup",
        "walker-run",
        "walker-stand",
        "walker-walk",
    }
    assert set(envs.TOYS) == {"toy-constant", "toy-target"}


@pytest.mark.parametrize("name", envs.TASKS + envs.TOYS)
def test_spec(name):
    spec = envs.make(name).spec
    domain = name.split("-")[0]
    assert spec.name == name
    assert spec.obs_shape == (9 if name == "finger-spin" else OBS_SIZES[domain],)
    assert spec.action_dim == ACTION_SIZES[domain]
    assert (spec.action_low, spec.action_high) == (-1.0, 1.0)
    assert spec.action_repeat == 2
    assert spec.episode_decisions * 2 == spec.episode_steps
    if name in envs.TASKS:
        assert spec.episode_steps == 1000


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("walker", "walker-walk"),
        ("walker-run", "walker-run"),
        ("walker_run", "walker-run"),
        ("dmc_walker_run", "walker-run"),
        ("dmc-Walker-Run", "walker-run"),
        ("cartpole-balance-sparse", "cartpole-balance_sparse"),
        ("dmc_cartpole_swingup_sparse", "cartpole-swingup_sparse"),
        ("pendulum", "pendulum-swingup"),
        ("toy_target", "toy-target"),
    ],
)
def test_names(name, canonical):
    assert envs.canonical_name(name) == canonical


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("walker-wlak", "walker-walk"),
        ("wlaker", "walker-walk"),
        ("cartpole_balanc", "cartpole-balance"),
        ("pendulm", "pendulum-swingup"),
    ],
)
def test_unknown_names_get_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"env='{name}'.*'{nearest}'") as caught:
        envs.make(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"obs": "image"}, "obs='image' is unknown"),
        ({"action_repeat": 0}, "action_repeat=0"),
        ({"action_repeat": 3}, "action_repeat=3 must be a positive divisor.*1000"),
    ],
)
def test_make_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        envs.make("pendulum", **arguments)


def test_make_is_silent_and_does_not_import_dm_control():
    # dm_control.suite opens a renderer; MJX prints a line about a package we never use.
    code = (
        "import sys, envs; envs.make('pendulum'); "
        "sys.exit(any(name.startswith('dm_control') for name in sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    assert "warp" not in result.stderr


def test_assets_folder_can_be_chosen(tmp_path, monkeypatch):
    source = assets_folder()
    shutil.copytree(source / "common", tmp_path / "common")
    shutil.copy(source / "walker.xml", tmp_path)
    monkeypatch.setenv("SMOOTH_DREAMER_ASSETS", str(tmp_path))
    assert assets_folder() == tmp_path
    assert load_model("walker.xml").nq == 9
    with pytest.raises(FileNotFoundError, match=r"'cartpole\.xml' was not found"):
        envs.make("cartpole")
    monkeypatch.setenv("SMOOTH_DREAMER_ASSETS", str(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError, match=r"SMOOTH_DREAMER_ASSETS=.*missing"):
        envs.make("walker")


def test_models_are_solved_as_measured():
    walker, cartpole = envs.make("walker"), envs.make("cartpole")
    assert isinstance(walker, MjxEnv) and isinstance(cartpole, MjxEnv)
    model = walker.model
    assert (model.opt.iterations, model.opt.ls_iterations) == (16, 10)
    damped = mujoco.mjtDisableBit.mjDSBL_EULERDAMP
    assert not model.opt.disableflags & damped
    assert model.opt.integrator == mujoco.mjtIntegrator.mjINT_EULER
    assert cartpole.model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4


# dm_control's indexing, under numpy 2.5.
@pytest.mark.filterwarnings("ignore:Setting the shape on a NumPy array")
def test_the_task_that_contributing_adds_is_dm_controls(tmp_path):
    text = pathlib.Path(__file__).parents[2].joinpath("CONTRIBUTING.md").read_text()
    after = text.partition("<!-- envs/dmc/point_mass.py")[2]
    path = tmp_path / "point_mass.py"
    path.write_text(re.findall(r"```python\n(.*?)```", after, flags=re.DOTALL)[0])
    spec = importlib.util.spec_from_file_location("point_mass", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    name = f"point_mass-{module.DEFAULT}"
    env = MjxEnv(module.TASKS[module.DEFAULT], name=name, action_repeat=1)
    dm_env, rng = parity.load(name), np.random.default_rng(0)
    measure = jax.jit(lambda qpos, qvel: _measured(env, qpos, qvel))
    seen = []
    for scale in (0.01, 0.02, 0.2):
        qpos, qvel = rng.uniform(-scale, scale, (2, 2))
        parity.put(dm_env, name, qpos, qvel)
        obs, reward = measure(qpos, qvel)
        theirs = parity.flat(dm_env.task.get_observation(dm_env.physics))
        np.testing.assert_allclose(obs, theirs, rtol=1e-5)
        seen.append(dm_env.task.get_reward(dm_env.physics))
        np.testing.assert_allclose(reward, seen[-1], rtol=1e-4, atol=1e-6)
    assert max(seen) == 1 and min(seen) < 1e-3
    state, _ = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 64))
    assert 0.2 < np.max(np.abs(state.qpos)) <= 0.29


def _measured(env, qpos, qvel):
    state = env.from_physics(qpos, qvel)
    return env.observe(state), env.reward(state)
