"""Scoring a run from its checkpoint, and the video of an episode."""

import ctypes.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from core.agent import Agent
from envs import VectorEnv
from train import record, scoring
from train.checkpoint import Checkpointer
from train.cli import parse
from train.config import Config
from train.evaluate import main
from train.scoring import SavedLearner, SavedRun, load_agents, make_player
from train.start import make_env
from train.state import RunState, init_run
from train.video import save_gif


def configured(words: str) -> Config:
    return parse(f"--preset smoke {words}".split(), "cpu")


def random_state(config: Config) -> RunState:
    """A run's state with random numbers in it: initializing it would be compiled."""
    env = VectorEnv(make_env(config), config.num_envs)
    init, key = lambda key: init_run(config, env, key), jax.random.key(0)
    if config.seeds > 1:
        init, key = jax.vmap(init), jax.random.split(key, config.seeds)
    rng = np.random.default_rng(0)

    def fill(leaf: jax.ShapeDtypeStruct) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.broadcast_to(jax.random.key(0), leaf.shape)
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.asarray(0.1 * rng.normal(size=leaf.shape), leaf.dtype)
        return jnp.zeros(leaf.shape, leaf.dtype)

    return jax.tree.map(fill, jax.eval_shape(init, key))


def save_run(
    run_dir: pathlib.Path, config: Config, tree: Any, steps: tuple[int, ...] = (400,)
) -> pathlib.Path:
    """A run directory as training leaves it."""
    run_dir.mkdir()
    record.write(config, run_dir / "config.json")
    for step in steps:
        assert Checkpointer(run_dir).save(step, tree, {})
    return run_dir


@pytest.fixture(scope="module", autouse=True)
def quick_compiles() -> Iterator[None]:
    """Compiling is most of the time here; the programs stay the same."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run on toy-target, with two checkpoints."""
    config = configured("--env toy-target")
    run_dir = tmp_path_factory.mktemp("runs") / "single"
    return save_run(run_dir, config, random_state(config), (200, 400))


class Pair(NamedTuple):
    """Two agents side by side on toy-constant, where every return is 20."""

    run_dir: pathlib.Path
    agents: Agent


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    config = configured("--env toy-constant --seeds 2")
    run_dir = tmp_path_factory.mktemp("runs") / "pair"
    state = random_state(config)
    return Pair(save_run(run_dir, config, state), state.learner.agent)


def refusal(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """The one line that answers these words."""
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n")
    assert out == ""
    return err


def test_report(single, tmp_path, capsys):
    path = tmp_path / "scores.json"
    words = ["--run", str(single), "--episodes", "7", "--random", "--json", str(path)]
    assert main(words) == 0
    out = capsys.readouterr().out
    lines = {line[:12].strip(): line[13:] for line in out.splitlines()}
    assert lines["run"] == str(single)
    assert lines["environment"] == "toy-target, action repeat 2"
    assert lines["checkpoint"] == "environment step 400"

    report = json.loads(path.read_text())
    assert report["step"] == 400 and report["episodes"] == 7 and report["seed"] == 0
    (agent,) = report["agents"]
    for name, score in (("policy", agent), ("random", report["random"])):
        returns = np.array(score["returns"])
        assert returns.shape == (7,) and len(set(returns)) == 7
        assert score["mean"] == pytest.approx(returns.mean())
        assert score["std"] == pytest.approx(returns.std())
        assert (score["min"], score["max"]) == (returns.min(), returns.max())
        assert lines[name] == (
            f"return {returns.mean():.1f} ± {returns.std():.1f}, "
            f"min {returns.min():.1f}, max {returns.max():.1f} (7 episodes)"
        )
    assert agent["returns"] != report["random"]["returns"]


def test_every_agent_of_several_seeds(pair, tmp_path, capsys):
    def report(*words: str) -> list[dict[str, Any]]:
        path = tmp_path / "scores.json"
        assert main(["--run", str(pair.run_dir), "--json", str(path), *words]) == 0
        return json.loads(path.read_text())["agents"]

    both = report("--episodes", "3")
    assert [agent["agent"] for agent in both] == [0, 1]
    assert all(agent["returns"] == [20.0] * 3 for agent in both)
    out = capsys.readouterr().out
    assert "agent 0      return 20.0 ± 0.0, min 20.0, max 20.0 (3 episodes)" in out
    assert "agent 1      return 20.0" in out
    assert [agent["agent"] for agent in report("--agent", "1")] == [1]


def test_the_agents_are_the_saved_ones(pair):
    config = record.read(pair.run_dir / "config.json")
    step, agents = load_agents(pair.run_dir, config, make_env(config))
    assert step == 400 and len(agents) == 2
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *agents)
    jax.tree.map(np.testing.assert_array_equal, stacked, pair.agents)


def test_nothing_but_the_agent_is_needed(single, tmp_path):
    config = record.read(single / "config.json")
    env = make_env(config)
    _, (agent,) = load_agents(single, config, env)
    bare = save_run(tmp_path / "bare", config, SavedRun(SavedLearner(agent)))
    _, (again,) = load_agents(bare, config, env)
    jax.tree.map(np.testing.assert_array_equal, again, agent)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(single, tmp_path, capfd):
    copied = shutil.copytree(single, tmp_path / "run")
    files = (copied / "checkpoints" / "000000000400" / "arrays").rglob("*")
    largest = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    assert main(["--run", str(copied), "--episodes", "2"]) == 0
    out, err = capfd.readouterr()
    assert "checkpoint   environment step 200\n" in out
    assert "checkpoint 400 is unusable" in err


def random_returns(rng: np.random.Generator, episodes: int) -> np.ndarray:
    """What toy-target pays a uniform random policy: 20 decisions of 2 steps each."""
    position = rng.uniform(-1, 1, episodes)
    total = np.zeros(episodes)
    for _ in range(20):
        action = rng.uniform(-1, 1, episodes)
        for _ in range(2):
            position = position + 0.1 * action
            total += 1 - np.abs(position)
    return total


def test_the_random_policy_is_uniform(single):
    config = record.read(single / "config.json")
    env = make_env(config)
    _, (agent,) = load_agents(single, config, env)
    returns = make_player(env, 400, 0, random_actions=True)(agent).returns
    expected = random_returns(np.random.default_rng(0), 100_000)
    error = expected.std() / 400**0.5
    assert abs(returns.mean() - expected.mean()) < 4 * error
    assert returns.std() == pytest.approx(expected.std(), rel=0.2)


def test_many_episodes_are_played_in_batches(single, monkeypatch):
    config = record.read(single / "config.json")
    env = make_env(config)
    _, (agent,) = load_agents(single, config, env)
    monkeypatch.setattr(scoring, "BATCH", 2)
    play = make_player(env, 5, 0)
    returns = play(agent).returns
    assert returns.shape == (5,) and len(set(returns.tolist())) == 5
    np.testing.assert_array_equal(play(agent).returns, returns)
    assert not set(make_player(env, 5, 1)(agent).returns) & set(returns)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("", ["--run: not given"]),
        ("--run", ["--run: no value given"]),
        ("--rnu {run}", ["--rnu", "unknown flag", "nearest valid: --run"]),
        ("--env walker", ["--env: unknown flag"]),
        ("--run {run} --episodes 0", ["--episodes 0", "nearest valid: 1"]),
        ("--run {run} --episodes 1.5", ["--episodes 1.5", "not an integer"]),
        ("--run {run} --seed -1", ["--seed -1", "nearest valid: 0"]),
        ("--run {run} --agent 1", ["--agent 1", "has 1 of them", "[0, 0]"]),
        ("--run {run}x", ["singlex: no such directory", "nearest valid: {run}"]),
        ("--run {tmp}", ["holds no config.json"]),
        ("--run {run} --video a.mp4", ["--video a.mp4", "nearest valid: a.gif"]),
        ("--run {run} --video {tmp}/no/a.gif", ["--video", "folder that exists"]),
        ("--run {run} --json {tmp}", ["--json", "cannot be written"]),
        ("--run {run} --video-size 9", ["--video-size 9", "nearest valid: 64"]),
        ("--run {run} --video {tmp}/a.gif", ["--video", "toy-target has no body"]),
    ],
)
def test_bad_input_gets_one_line(single, tmp_path, capsys, words, parts):
    places = {"run": single, "tmp": tmp_path}
    message = refusal(capsys, [word.format(**places) for word in words.split()])
    for part in parts:
        assert part.format(**places) in message


def test_a_run_without_a_checkpoint(tmp_path, capsys):
    record.write(configured("--env toy-target"), tmp_path / "config.json")
    message = refusal(capsys, ["--run", str(tmp_path)])
    assert "holds no checkpoint" in message and "every 200 environment" in message


def test_a_checkpoint_of_another_size(single, tmp_path, capsys):
    config = configured("--env toy-target --size 12m")
    record.write(config, tmp_path / "config.json")
    (tmp_path / "checkpoints").symlink_to(single / "checkpoints")
    message = refusal(capsys, ["--run", str(tmp_path)])
    assert "does not fit this run: leaf .learner.agent" in message


def test_help(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "python -m train.evaluate --run" in capsys.readouterr().out


def python(code: str, gl: str = "") -> subprocess.CompletedProcess[str]:
    environment = {name: x for name, x in os.environ.items() if name != "MUJOCO_GL"}
    if gl:
        environment["MUJOCO_GL"] = gl
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        cwd=pathlib.Path(__file__).parent.parent,
    )


def test_a_typing_error_is_answered_before_jax_loads():
    done = python(
        "import sys\n"
        "from train.evaluate import main\n"
        "assert main(['--rnu', 'x']) == 2\n"
        "assert not {'jax', 'mujoco', 'numpy'} & set(sys.modules)\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("error: --rnu")


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    config = configured("--env cartpole-balance")
    run_dir = tmp_path_factory.mktemp("runs") / "cartpole"
    return save_run(run_dir, config, random_state(config))


@pytest.mark.parametrize(
    ("gl", "part"),
    [
        ("off", "MuJoCo finds no OpenGL to draw with: set MUJOCO_GL=egl"),
        ("opengl", "MUJOCO_GL=opengl: MuJoCo cannot use it here"),
    ],
)
def test_without_opengl_a_video_is_refused_in_one_line(cartpole, tmp_path, gl, part):
    words = ["--run", str(cartpole), "--video", str(tmp_path / "out.gif")]
    code = f"import sys; from train.evaluate import main; sys.exit(main({words!r}))"
    done = python(code, gl)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and part in done.stderr


def available_gl() -> str:
    """What MuJoCo can draw with here; skips the test where it is nothing."""
    for name, library in (("osmesa", "OSMesa"), ("egl", "EGL")):
        if ctypes.util.find_library(library):
            return name
    pytest.skip("no OpenGL: neither libOSMesa nor libEGL is installed")


def pictures(tmp_path: pathlib.Path, env: str, poses: str) -> np.ndarray:
    """What a film shows of them, drawn where MuJoCo finds an OpenGL."""
    path = tmp_path / "pictures.npy"
    code = (
        "import envs, numpy as np\n"
        "from train.video import Film, Poses\n"
        f"film = Film(envs.make({env!r}), 64)\n"
        f"np.save({str(path)!r}, film.draw(Poses(*map(np.array, {poses}))))\n"
        "film.close()\n"
    )
    done = python(code, available_gl())
    assert done.returncode == 0, done.stderr
    return np.load(path)


def test_pictures_follow_the_body(tmp_path):
    poses = "([[0.0, 0.0], [0.0, 0.0], [0.5, 1.0]], np.zeros((3, 0)))"
    shown = pictures(tmp_path, "cartpole-balance", poses)
    assert shown.shape == (3, 64, 64, 3) and shown.dtype == np.uint8
    assert shown[0].std() > 5  # not a black picture
    np.testing.assert_array_equal(shown[0], shown[1])
    assert np.abs(shown[2].astype(int) - shown[0]).max() > 50


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
    words = ["--run", str(cartpole), "--video", str(path), "--episodes", "1"]
    code = f"import sys; from train.evaluate import main; sys.exit(main({words!r}))"
    done = python(code, available_gl())
    assert done.returncode == 0, done.stderr
    assert f"video        {path} (250 frames, 10 s)" in done.stdout
    with Image.open(path) as image:
        assert image.size == (160, 160)
        # Equal pictures are stored once, with a longer duration.
        count, duration = getattr(image, "n_frames", 1), 0
        for index in range(count):
            image.seek(index)
            duration += image.info["duration"]
        assert count > 10 and duration == 250 * 40  # 10 s of simulated time
