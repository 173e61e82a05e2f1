"""The film of an episode, and what draws it."""

import ctypes.util
import pathlib

import numpy as np
import pytest
from PIL import Image
from saved_run import configured, python, random_state, save_run

from train.evaluate import make_film
from train.rollout.video import save_gif


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    config = configured("--env cartpole-balance")
    run_dir = tmp_path_factory.mktemp("runs") / "cartpole"
    return save_run(run_dir, config, random_state(config))


def film(run_dir: pathlib.Path, path: pathlib.Path, *words: str, gl: str = ""):
    """`train.evaluate` with a film, in a fresh Python."""
    words = ("--run", str(run_dir), "--episodes", "1", "--video", str(path), *words)
    code = f"import sys; from train.evaluate import main; sys.exit(main({words!r}))"
    return python(code, gl)


def test_an_opengl_that_does_not_exist_is_refused_in_one_line(cartpole, tmp_path):
    done = film(cartpole, tmp_path / "out.gif", gl="opengl")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "MUJOCO_GL=opengl: MuJoCo cannot use it here" in done.stderr


def short_film(tmp_path: pathlib.Path, gl: str) -> tuple[np.ndarray, str]:
    """Two pictures of a cartpole in a fresh Python, and what says it drew them."""
    path = tmp_path / "pictures.npy"
    done = python(DRAW.format(env="cartpole-balance", poses=TWO, path=str(path)), gl)
    assert done.returncode == 0, done.stderr
    return np.load(path), done.stdout.strip()


@pytest.mark.long
def test_without_opengl_this_projects_own_renderer_draws(tmp_path):
    shown, name = short_film(tmp_path, "off")
    assert name == "this project's own renderer, in JAX"
    assert shown.shape == (2, 64, 64, 3) and shown[0].std() > 5
    assert np.abs(shown[1].astype(int) - shown[0]).max() > 50


@pytest.mark.long
def test_without_a_choice_an_opengl_is_found(tmp_path):
    available_gl()
    shown, name = short_film(tmp_path, "")
    assert name in ("MuJoCo with EGL", "MuJoCo with OSMesa")
    assert np.abs(shown[1].astype(int) - shown[0]).max() > 50


def test_a_film_that_fails_costs_no_score(tmp_path, capsys):
    class Broken:
        def write(self, *_: object) -> str:
            raise RuntimeError("the driver\ncrashed")

        def close(self) -> None:
            pass

    assert make_film(Broken(), None, tmp_path / "out.gif") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: no film was made (the driver crashed); the scores stand\n"


TWO = "([[0.0, 0.0], [0.5, 1.0]], np.zeros((2, 0)))"
DRAW = (
    "import envs, numpy as np\n"
    "from train.rollout.player import Poses\n"
    "from train.rollout.video import Film\n"
    "film = Film(envs.make('{env}'), 64)\n"
    "np.save('{path}', film.draw(Poses(*map(np.array, {poses}))))\n"
    "print(film._renderer.name)\n"
    "film.close()\n"
)


def available_gl() -> str:
    """What MuJoCo can draw with here; skips the test where it is nothing."""
    for name, library in (("osmesa", "OSMesa"), ("egl", "EGL")):
        if ctypes.util.find_library(library):
            return name
    pytest.skip("no OpenGL: neither libOSMesa nor libEGL is installed")


def pictures(tmp_path: pathlib.Path, env: str, poses: str) -> np.ndarray:
    """What a film shows of them, drawn where MuJoCo finds an OpenGL."""
    path = tmp_path / "pictures.npy"
    code = DRAW.format(env=env, poses=poses, path=str(path))
    done = python(code, available_gl())
    assert done.returncode == 0, done.stderr
    return np.load(path)


@pytest.mark.long
def test_pictures_follow_the_body(tmp_path):
    poses = "([[0.0, 0.0], [0.0, 0.0], [0.5, 1.0]], np.zeros((3, 0)))"
    shown = pictures(tmp_path, "cartpole-balance", poses)
    assert shown.shape == (3, 64, 64, 3) and shown.dtype == np.uint8
    assert shown[0].std() > 5  # not a black picture
    np.testing.assert_array_equal(shown[0], shown[1])
    assert np.abs(shown[2].astype(int) - shown[0]).max() > 50


@pytest.mark.long
def test_pictures_show_the_target_where_the_episode_has_it(tmp_path):
    """A ball, seen from above; right in the world is right in the picture."""
    poses = "(np.zeros((3, 2)), [[0.0, 0.15], [0.15, 0.0], [0.0, 0.15]])"
    up, right, again = pictures(tmp_path, "reacher-easy", poses).astype(int)
    np.testing.assert_array_equal(up, again)
    rows, columns = np.nonzero(np.any(np.abs(up - right) > 30, axis=-1))
    differs = np.zeros((64, 64), bool)
    differs[rows, columns] = True
    assert differs[8:28, 24:40].any() and differs[24:40, 36:56].any()
    assert not differs[:, :20].any() and not differs[44:].any()


def test_a_gif_keeps_its_frames_and_its_pace(tmp_path):
    frames = np.zeros((9, 64, 64, 3), np.uint8)
    for index, frame in enumerate(frames):
        frame[:, 7 * index : 7 * index + 7] = (255, 128, 0)
    path = tmp_path / "out.gif"
    save_gif(frames, path, milliseconds=40)
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == 9
        for index, frame in enumerate(frames):
            image.seek(index)
            assert image.info["duration"] == 40
            shown = np.asarray(image.convert("RGB")).astype(int)
            assert np.abs(shown - frame).max() < 8, index


@pytest.mark.slow
def test_video_of_an_episode(cartpole, tmp_path):
    path = tmp_path / "out.gif"
    done = film(cartpole, path, gl=available_gl())
    assert done.returncode == 0, done.stderr
    assert f"video        {path} (250 frames, 10 s), drawn by" in done.stdout
    with Image.open(path) as image:
        assert image.size == (160, 160)
        # Equal pictures are stored once, with a longer duration.
        count, duration = getattr(image, "n_frames", 1), 0
        for index in range(count):
            image.seek(index)
            duration += image.info["duration"]
        assert count > 10 and duration == 250 * 40  # 10 s of simulated time


@pytest.mark.long
def test_a_renderer_that_nobody_closes_ends_without_a_word():
    """MuJoCo's own clean-up at exit printed tracebacks."""
    drawn = python(
        "import numpy as np, envs\n"
        "from envs.render.opengl import BodyRenderer, NoOpenGLError\n"
        "try:\n"
        "    draw = BodyRenderer(envs.make('pendulum-swingup'), 32, 32)\n"
        "except NoOpenGLError:\n"
        "    raise SystemExit(77)\n"
        "print(draw(np.zeros(1), np.zeros(0)).shape)\n"
    )
    if drawn.returncode == 77:
        pytest.skip("no OpenGL here")
    assert (drawn.returncode, drawn.stdout) == (0, "(32, 32, 3)\n"), drawn.stderr
    assert "Traceback" not in drawn.stderr
