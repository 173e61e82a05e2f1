"""The Gymnasium forms."""

import ctypes.util
import os
import pathlib
import subprocess
import sys
import warnings

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs
from envs import gym


@pytest.fixture(scope="module")
def pendulum():
    env = gym.make("pendulum", action_repeat=4)
    yield env
    env.close()


@pytest.fixture(scope="module")
def batch():
    return gym.make_vec("pendulum", num_envs=3, action_repeat=4)


def test_gymnasiums_own_checks_pass(pendulum):
    with warnings.catch_warnings():
        # It finds that observations without bounds are "probably" too large.
        warnings.filterwarnings("ignore", message=".*Box observation space m.*imum")
        check_env(pendulum, skip_render_check=True)


def test_spaces(pendulum):
    assert pendulum.observation_space.shape == (3,)
    assert pendulum.observation_space.dtype == np.float32
    assert pendulum.action_space == gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    assert pendulum.metadata["render_fps"] == 12  # 0.08 s a decision
    assert pendulum.unwrapped.env.spec.name == "pendulum-swingup"


def test_the_seed_decides_every_later_episode(pendulum):
    def starts(seed):
        first, _ = pendulum.reset(seed=seed)
        return [first, pendulum.reset()[0], pendulum.reset()[0]]

    once, again, other = starts(1), starts(1), starts(2)
    np.testing.assert_array_equal(once, again)
    assert len(np.unique(np.concatenate([once, other])[:, 0])) == 6


def test_an_episode_ends_by_time(pendulum):
    pendulum.reset(seed=0)
    total = 0.0
    for t in range(250):
        obs, reward, terminated, truncated, info = pendulum.step(np.zeros(1))
        assert isinstance(reward, float) and not terminated and not info["is_corrupt"]
        assert truncated == (t == 249)
        assert pendulum.observation_space.contains(obs)
        total += reward
    assert 0 <= total <= 1000


def test_steps_are_those_of_the_environment(pendulum):
    pendulum.reset(seed=3)
    env = envs.make("pendulum", action_repeat=4)
    _, row = jax.jit(env.advance)(pendulum._state, jnp.ones(1))
    obs, reward, *_ = pendulum.step(np.ones(1, np.float32))
    np.testing.assert_allclose(obs, row.obs, rtol=1e-5)
    assert reward == row.reward


def test_options_change_the_physics_of_one_episode(pendulum):
    pendulum.reset(seed=0, options={"gravity": 1.0, "mass": 2.0})
    light = pendulum.step(np.zeros(1))[0]
    assert pendulum._state.gravity == 1 and pendulum._state.parameters.mass == 2
    pendulum.reset(seed=0)
    assert pendulum._state.gravity == pytest.approx(9.81)
    assert np.max(np.abs(pendulum.step(np.zeros(1))[0] - light)) > 0.01
    with pytest.raises(ValueError, match=r"options=.*'wind'.*'gravity', 'friction'"):
        pendulum.reset(options={"wind": 1.0})


def test_step_before_reset_is_refused():
    with pytest.raises(gymnasium.error.ResetNeeded):
        gym.make("toy-target").step(np.zeros(1))
    with pytest.raises(gymnasium.error.ResetNeeded):
        gym.make_vec("toy-target", num_envs=2).step(np.zeros((2, 1)))


def test_render_mode():
    with pytest.raises(ValueError, match=r"render_mode='human'.*\[None, 'rgb_array'\]"):
        gym.make("pendulum", render_mode="human")
    with pytest.raises(ValueError, match=r"toy-target has \[None\]"):
        gym.make("toy-target", render_mode="rgb_array")
    assert gym.make("toy-target").render() is None


# In a process of its own: what MuJoCo draws with is chosen when it is imported.
DRAW = """
import numpy as np
from envs import gym
env = gym.make({name!r}, render_mode="rgb_array", height=48, width=64)
frames = []
for seed in (0, 0, 1):
    env.reset(seed=seed)
    frames.append(env.render())
env.close()
assert frames[0].shape == (48, 64, 3) and frames[0].dtype == np.uint8
assert np.array_equal(frames[0], frames[1])
assert np.mean(frames[0] != frames[2]) > 0.01
"""


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["pendulum", pytest.param("finger-turn_easy", marks=pytest.mark.slow)]
)
def test_frames_show_the_state(name):
    libraries = {"osmesa": "OSMesa", "egl": "EGL"}
    found = [gl for gl, name in libraries.items() if ctypes.util.find_library(name)]
    if not found:
        pytest.skip("no OpenGL: neither libOSMesa nor libEGL is installed")
    done = python(DRAW.format(name=name), found[0])
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_without_opengl_the_remedy_is_named():
    done = python(DRAW.format(name="pendulum"), "off")
    assert "NoOpenGLError: MuJoCo finds no OpenGL" in done.stderr
    assert "MUJOCO_GL=osmesa" in done.stderr


def python(code: str, gl: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"MUJOCO_GL": gl},
        cwd=pathlib.Path(__file__).parents[2],
        check=False,
    )


@pytest.mark.long
def test_vector_form(batch):
    assert batch.num_envs == 3
    assert batch.observation_space.shape == (3, 3)
    assert batch.action_space.shape == (3, 1)
    assert batch.metadata["autoreset_mode"] == gymnasium.vector.AutoresetMode.NEXT_STEP
    first, _ = batch.reset(seed=5)
    np.testing.assert_array_equal(batch.reset(seed=5)[0], first)
    assert len(np.unique(first[:, 0])) == 3
    for t in range(251):
        obs, reward, terminated, truncated, info = batch.step(np.zeros((3, 1)))
        assert np.all(truncated == (t == 249)) and not np.any(terminated)
        assert not np.any(info["is_corrupt"])
    assert np.all(reward == 0)  # the first rows of the next episodes
    assert np.max(np.abs(obs[:, 0] - first[:, 0])) > 1e-3
    batch.reset(options={"gravity": np.array([1.0, 2.0, 3.0])})
    np.testing.assert_array_equal(batch._state.gravity, [1, 2, 3])


# In a process of its own, which is forked while JAX runs in it.
FORK = """
import gymnasium
from envs import gym
def make():
    return gym.make("toy-target")
if __name__ == "__main__":
    make().reset(seed=0)
    batch = gymnasium.vector.AsyncVectorEnv([make, make], context={context!r})
    batch.reset(seed=0)
    print(batch.step(batch.action_space.sample())[1].shape)
    batch.close()
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("context", "said"),
    [
        ("fork", 'context="spawn"'),
        pytest.param("spawn", "(2,)", marks=pytest.mark.slow),
    ],
)
def test_processes_of_gymnasium(tmp_path, context, said):
    script = tmp_path / "script.py"
    script.write_text(FORK.format(context=context))
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
        timeout=300,
        check=False,
    )
    # The parent's own last words: Gymnasium handed the error on.
    last = (done.stderr if context == "fork" else done.stdout).splitlines()[-1]
    assert said in last, done.stderr
    assert ("gym.make_vec" in last) == (context == "fork")
    assert (done.returncode == 0) == (context == "spawn")


@pytest.mark.long
def test_a_process_forked_before_jax_runs_may_use_it():
    code = """
import os
from envs import gym
from envs.checks import forked
pid = os.fork()
if pid == 0:
    gym.make("toy-target").reset(seed=0)
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
"""
    done = python(code, "off")
    assert done.returncode == 0, done.stderr


def test_an_episode_that_begins_with_nan_is_truncated_by_its_first_step():
    env = envs.from_jax(
        initial=lambda key: jnp.full(1, jnp.nan),
        step=lambda s, a: s,
        observe=lambda s: s,
        reward=lambda s: 1.0,
        action_dim=1,
    )
    one = gym.GymEnv(env, size=(8, 8))
    obs, info = one.reset(seed=0)
    assert obs == 0 and info == {"is_corrupt": True}
    _, reward, terminated, truncated, info = one.step(np.zeros(1))
    assert truncated and not terminated and info["is_corrupt"] and reward == 0
    obs, info = gym.GymVectorEnv(env, 2).reset(seed=0)
    assert np.all(obs == 0) and info["is_corrupt"].tolist() == [True, True]


def test_gymnasium_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    monkeypatch.delitem(sys.modules, "envs.gym")
    with pytest.raises(ImportError, match=r"envs\.gym needs gymnasium.*\[gym\]"):
        __import__("envs.gym")
