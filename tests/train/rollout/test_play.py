"""`train.play`: a trained agent in MuJoCo's viewer, which is a fake here, or a film."""

import contextlib
import pathlib
import subprocess
import sys
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from saved_run import configured, python, random_state, save_run

import envs
from envs.mjx._mjx import mujoco
from train import play
from train.preflight.setup import make_env
from train.rollout import viewer
from train.rollout.player import Poses
from train.rollout.scores import Episodes, load_agents, make_scorer
from train.rollout.viewer import Clock, Viewer
from train.run_dir.record import read_run

RUN = pathlib.Path(__file__).parents[3] / "agents" / "cartpole-swingup"

pytestmark = pytest.mark.usefixtures("quick_compiles")


class Window:
    """What MuJoCo's handle of a window has; open for so many pictures."""

    def __init__(self, body: viewer.HostBody, pictures: int) -> None:
        self.body, self.left, self.closed = body, pictures, False
        self.cam = mujoco.MjvCamera()
        self.shown: list[np.ndarray] = []
        self.targets: list[np.ndarray] = []

    def lock(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def is_running(self) -> bool:
        return self.left > len(self.shown)

    def sync(self) -> None:
        self.shown.append(self.body.data.qpos.copy())
        self.targets.append(self.body.data.geom_xpos.copy())

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def windows(monkeypatch):
    """All windows that were opened; each closes after so many pictures."""
    opened: list[Any] = []

    def give(pictures: int) -> list[Window]:
        def opens(body: viewer.HostBody) -> Window:
            opened.append(Window(body, pictures))
            return opened[-1]

        monkeypatch.setattr(viewer, "_open", opens)
        monkeypatch.setenv("DISPLAY", ":0")
        return opened

    return give


def test_states_are_shown_in_real_time(windows):
    env, opened, slept, now = envs.make("reacher-easy"), windows(100), [], [5.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    def clock() -> float:
        now[0] += 0.003  # what drawing takes
        return now[0]

    view = Viewer(env, "--run here", Clock(clock, sleep))
    poses = Poses(
        jnp.array([[0.0, 0.0], [0.5, 1.0], [1.0, 1.0]]),
        jnp.array([[0.0, 0.15], [0.0, 0.15], [0.15, 0.0]]),
    )
    assert view.show(poses)
    (window,) = opened
    np.testing.assert_array_equal(window.shown, poses.qpos)
    target = env.model.geom("target").id  # pyright: ignore[reportAttributeAccessIssue]
    np.testing.assert_allclose(np.array(window.targets)[:, target, :2], poses.scene)
    decision = env.spec.control_timestep * env.spec.action_repeat
    assert now[0] - 5.003 == pytest.approx(3 * decision)
    assert slept == pytest.approx([decision - 0.003] * 3)
    assert window.cam.type == mujoco.mjtCamera.mjCAMERA_FIXED
    view.close()
    assert window.closed


def test_a_closed_window_ends_the_episode(windows):
    opened = windows(2)
    env, still = envs.make("cartpole-balance"), Clock(lambda: 0.0, lambda _: None)
    poses = Poses(jnp.zeros((9, 2)), jnp.zeros((9, 0)))
    assert not Viewer(env, "--run here", still).show(poses)
    assert len(opened[0].shown) == 2


@pytest.mark.long
def test_the_viewer_shows_the_episodes_that_evaluation_plays(windows, capsys):
    opened = windows(5)
    words = ["--run", str(RUN), "--seed", "3", "--eval-max-decisions", "3"]
    assert play.main(words) == 0
    out, err = capsys.readouterr()
    assert err == "" and "checkpoint   environment step 100,064\n" in out
    config = read_run(RUN)
    env = make_env(config)
    _, (agent,) = load_agents(RUN, config, env)
    score = make_scorer(env, Episodes(1, 3, "mode", 3), poses=True)
    first, second = score(agent)[0], score(agent, 4)[0]
    assert first.poses is not None and second.poses is not None
    np.testing.assert_array_equal(opened[0].shown[:3], first.poses.qpos)
    np.testing.assert_array_equal(opened[0].shown[3:], second.poses.qpos[:2])
    assert not np.array_equal(first.poses.qpos, second.poses.qpos)
    for seed, each in ((3, first), (4, second)):
        assert f"seed {seed:<7} return {each.returns[0]:.1f}, 3 decisions\n" in out
    assert "seed 5" not in out and opened[0].closed


@pytest.mark.long
def test_a_film_needs_no_display(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    path = tmp_path / "out.gif"
    words = ["--run", str(RUN), "--video", str(path), "--eval-max-decisions", "9"]
    assert play.main([*words, "--video-size", "64"]) == 0
    assert f"video        {path} (" in capsys.readouterr().out
    with Image.open(path) as image:
        assert image.size == (64, 64)


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert play.main([*words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err


def test_without_a_display_one_line_says_what_to_do():
    """And before JAX and MuJoCo load."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "train.play", "--run", str(RUN)],
        capture_output=True,
        text=True,
        cwd=pathlib.Path(__file__).parents[3],
        env={"PATH": "/bin"},
    )
    lines = [x for x in done.stderr.splitlines() if not x.startswith("import time:")]
    assert done.returncode == 2 and done.stdout == "" and len(lines) == 1
    assert "neither DISPLAY nor WAYLAND_DISPLAY is set; --video out.gif" in lines[0]
    assert not [x for x in done.stderr.splitlines() if x.endswith((" jax", " mujoco"))]


@pytest.mark.long
def test_a_display_that_does_not_answer_is_refused(monkeypatch):
    """In a fresh Python: GLFW is started."""
    monkeypatch.setenv("DISPLAY", ":77")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    words = ["--run", str(RUN)]
    done = python(f"import sys; from train.play import main; sys.exit(main({words}))")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "MuJoCo's viewer does not open here (" in done.stderr
    assert "--video out.gif makes a film instead" in done.stderr


def test_an_environment_without_a_body_is_refused(tmp_path, capsys, windows):
    windows(1)
    config = configured("--env toy-target")
    run_dir = save_run(tmp_path / "toy", config, random_state(config))
    said = refusal(capsys, "--run", str(run_dir))
    assert f"--run {run_dir}: toy-target has no body that could be drawn" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--video", "out.mp4"], "--video out.mp4: allowed: a name that ends in .gif"),
        (["--agent", "1"], "--agent 1: the run has 1 of them"),
        (["--episodes", "2"], "--episodes: unknown flag"),
    ],
)
def test_mistakes_are_answered_in_one_line(capsys, windows, words, says):
    windows(1)
    assert says in refusal(capsys, "--run", str(RUN), *words)
