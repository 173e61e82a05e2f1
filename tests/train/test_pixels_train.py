"""Training, evaluating and filming from images."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import envs
from core.agent import Agent
from core.latent_error import zero_drift
from core.sizes import ModelSize
from core.transition import Transition
from envs import VectorEnv, perturb
from envs.dmc import cartpole
from envs.mjx.env import MjxEnv
from envs.render.pixels import PixelEnv
from train import evaluate, main
from train.checkpoint.leaves import tree_bytes
from train.config import Config, replay_bytes
from train.config.cli import parse
from train.errors import UserError
from train.preflight import memory, setup
from train.program import replay
from train.program.chunk import Schedule
from train.program.state import init_run
from train.program.update import augmented
from train.rollout import openloop, scores
from train.rollout.conditions import read_conditions
from train.rollout.player import make_evaluate, make_player
from train.rollout.scores import Episodes, make_scorer

TINY = ModelSize(units=8, deter=16, hidden=8, stoch=4, classes=4, cnn_depth=2, blocks=2)


def configured(words: str) -> Config:
    return parse(f"--preset smoke {words}".split(), "cpu")


@pytest.fixture(scope="module")
def smoke():
    """Configuration of a smoke run on images, and the shapes of its state."""
    config = configured("--env cartpole-balance --obs pixels")
    env = VectorEnv(setup.make_env(config), config.num_envs)
    shapes = jax.eval_shape(lambda key: init_run(config, env, key), jax.random.key(0))
    return config, env, shapes


def test_replay_keeps_bytes_and_takes_what_was_said(smoke):
    config, env, shapes = smoke
    assert shapes.replay.rows.obs.shape == (100, 2, 64, 64, 3)
    assert shapes.replay.rows.obs.dtype == jnp.uint8
    said = replay_bytes(config, obs_shape=env.spec.obs_shape, action_dim=1)
    counters = 8
    assert tree_bytes(shapes.replay) == said + counters


def pictures(*, name, action_repeat):
    """An environment that draws its own images: a bright column, moved by actions."""

    def draw(x):
        bright = jnp.arange(16) == jnp.round(x).astype(int)
        image = jnp.broadcast_to(bright[None, :, None], (16, 16, 3))
        return (255 * image).astype(jnp.uint8)

    return envs.from_jax(
        initial=lambda key: jax.random.uniform(key, (), maxval=16.0),
        step=lambda x, action: jnp.clip(x + action[0], 0.0, 15.0),
        observe=draw,
        reward=lambda x: x / 15,
        action_dim=1,
        name=name,
        action_repeat=action_repeat,
        episode_steps=40,
    )


def test_images_are_known_by_their_shape_and_type_not_by_the_flag(getkey):
    config = configured(f"--env {__name__}:pictures --augment rotate:90")
    assert config.obs == "state"
    env = VectorEnv(setup.make_env(config), config.num_envs)
    shapes = jax.eval_shape(lambda: init_run(config, env, jax.random.key(0)))
    said = replay_bytes(config, obs_shape=(16, 16, 3), action_dim=1)
    assert tree_bytes(shapes.replay) == said + 8
    _, rows = env.reset(getkey())
    turned = augmented(config, rows.obs[None], getkey())[0]
    assert turned.dtype == jnp.uint8
    np.testing.assert_array_equal(turned, jnp.rot90(rows.obs, axes=(1, 2)))
    with pytest.raises(UserError, match=r"pictures observes images of its own"):
        setup.make_env(dataclasses.replace(config, obs="pixels"))


@pytest.mark.slow
def test_training_on_images_of_ones_own_films_what_is_expected(tmp_path):
    words = f"--preset smoke --env {__name__}:pictures --logdir {tmp_path}"
    assert main.main([*words.split(), "--augment", "noise:0.1"]) == 0
    assert list(tmp_path.rglob("*.gif"))


def test_images_come_back_from_the_replay_as_they_went_in(smoke, getkey):
    shapes = smoke[2].replay.rows
    empty = jax.tree.map(lambda x: jnp.zeros((8, *x.shape[1:]), x.dtype), shapes)
    buffer = replay.Replay(empty, jnp.int32(0), jnp.int32(0))
    images = jax.random.randint(getkey(), (8, 2, 64, 64, 3), 0, 256).astype(jnp.uint8)
    row = jax.tree.map(lambda x: x[0], empty)
    for image in images:
        buffer = replay.add(buffer, row._replace(obs=image))
    rows, window = replay.sample(buffer, batch=3, length=4, key=getkey())
    assert rows.obs.dtype == jnp.uint8
    np.testing.assert_array_equal(rows.obs, images[window.time, window.env[None]])


def test_memory_that_images_do_not_fit_in(smoke, monkeypatch):
    config, env, _ = smoke
    monkeypatch.setattr(memory, "available_memory", lambda: 4 * 2**20)
    row = replay_bytes(config, obs_shape=(64, 64, 3), action_dim=1) // 200
    assert row > 12 * 1024
    with pytest.raises(UserError, match=f"nearest valid: {2 * 2**20 // row}$"):
        memory.check_memory(config, env.spec)


def test_presets_take_their_depth_of_convolution():
    config = parse(["--preset", "jacreg", "--env", "cartpole-balance"], "cpu")
    env = VectorEnv(setup.make_env(config), 1)
    template = jax.eval_shape(
        lambda key: init_run(dataclasses.replace(config, replay_size=1000), env, key),
        jax.random.key(0),
    )
    first = template.learner.agent.model.encoder.layers[0]
    assert first.conv.weight.shape == (5, 5, 3, 2 * 48)


def test_augmentation_is_of_the_right_kind(getkey):
    config = configured("--env cartpole-balance --obs pixels --augment mask:100,5,0")
    images = jnp.zeros((2, 3, 64, 64, 3), jnp.uint8)
    assert jnp.all(augmented(config, images, getkey()) == 255)
    plain = dataclasses.replace(config, augment="none")
    assert augmented(plain, images, getkey()) is images
    state = configured("--env pendulum --augment noise:0.04")
    noise = augmented(state, jnp.zeros((40, 50, 3)), getkey())
    assert np.std(noise) == pytest.approx(0.2, rel=0.05)
    assert len(np.unique(noise)) > 5900


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--env pendulum --augment rotate:20", "--augment rotate:20"),
        ("--env pendulum --obs pixels --augment blur:2", "--augment blur:2"),
        ("--env toy-target --obs pixels", "no MuJoCo model to draw"),
    ],
)
def test_bad_flags_get_one_line(words, part, tmp_path, capsys):
    command = f"--preset smoke --logdir {tmp_path}/run {words}"
    assert main.main(command.split()) == 2
    error = capsys.readouterr().err
    assert part in error and error.count("\n") == 1


@pytest.mark.long
def test_no_perturbation_is_plain_evaluation(getkey):
    """Bit by bit; and each of several conditions has the starts of the plain one."""
    env = envs.make("toy-target")
    size = env.spec.obs_shape[0]
    agent = Agent(size, env.spec.action_dim, key=getkey(), size=TINY)
    key = getkey()
    plain = jax.jit(make_evaluate(VectorEnv(env, 3)))(agent, key)
    for text in ("none", "noise:0"):
        alone = read_conditions(env, text, "")
        played = jax.jit(make_player(env, 3, alone))(agent, key).returns
        np.testing.assert_array_equal(played, plain[None])
    several = read_conditions(env, "none noise:4 none", "")
    assert several.labels == ("none", "noise:4", "none")
    played = jax.jit(make_player(env, 3, several))(agent, key).returns
    np.testing.assert_allclose(played[0], plain, rtol=1e-5)
    np.testing.assert_array_equal(played[0], played[2])
    assert not np.allclose(played[1], plain, rtol=1e-3)


def test_conditions_are_all_pairs(getkey):
    env = envs.make("pendulum", obs="pixels")
    conditions = read_conditions(env, "none rotate:20", "9.81 4")
    assert conditions.labels == (
        "none gravity 9.81",
        "rotate:20 gravity 9.81",
        "none gravity 4",
        "rotate:20 gravity 4",
    )
    assert conditions.gravity is not None
    np.testing.assert_allclose(conditions.gravity, [9.81, 9.81, 4, 4])
    assert isinstance(conditions.perturbation, perturb.ImagePerturbation)
    np.testing.assert_allclose(conditions.perturbation.angle, [0, 20, 0, 20])
    assert read_conditions(env, "", "4").labels == ("gravity 4",)
    paper = read_conditions(env, "rotate:5 paper-walker", "").labels
    assert paper == ("rotate:5", *perturb.SETS["paper-walker"])
    with pytest.raises(UserError, match="is for images"):
        read_conditions(envs.make("pendulum"), "paper-walker", "")


@pytest.mark.parametrize(
    ("env", "eyes", "gravity", "message"),
    [
        ("pendulum", "nosie:1", "", r"--perturb nosie:1: .*use one of none, noise"),
        ("pendulum", "rotate:20", "", r"rotate:20: .*for images \(--obs pixels\)"),
        ("pendulum", "", "moon", r"--gravity moon: not a gravity"),
        ("pendulum", "", "-1", r"--gravity -1: not a gravity"),
        ("toy-target", "", "4", r"--gravity 4: toy-target has no gravity"),
    ],
)
def test_bad_conditions(env, eyes, gravity, message):
    with pytest.raises(UserError, match=message):
        read_conditions(envs.make(env), eyes, gravity)


def test_flags_that_take_several_values():
    words = [
        "--perturb",
        "none",
        "rotate:-20",
        "--episodes",
        "2",
        "--gravity",
        "4",
        "1",
    ]
    joined = evaluate.join_lists(words)
    assert joined == [
        *("--perturb", "none rotate:-20", "--episodes", "2", "--gravity", "4 1"),
    ]


def test_open_loop_watches_and_then_imagines(getkey):
    """Later images change nothing that the model shows; later actions do."""
    agent = Agent((16, 16, 3), 1, key=getkey(), size=TINY)
    images = jax.random.randint(getkey(), (6, 2, 16, 16, 3), 0, 256)
    no = jnp.zeros((6, 2), bool)
    rows = Transition(
        images.astype(jnp.uint8),
        jax.random.uniform(getkey(), (6, 2, 1)),
        jnp.zeros((6, 2)),
        no.at[0].set(True),
        no,
        no,
    )
    key = getkey()
    predict = jax.jit(openloop.predict, static_argnums=3)
    start = agent.model.rssm.initial(2)

    def show(**changes):
        return predict(agent, start, rows._replace(**changes), 3, key=key).model

    shown = show()
    assert shown.shape == (6, 2, 16, 16, 3)
    np.testing.assert_array_equal(show(obs=rows.obs.at[3:].set(0)), shown)
    other = show(obs=rows.obs.at[2].set(0))
    np.testing.assert_array_equal(other[:2], shown[:2])
    assert np.any(other[2:] != shown[2:])
    other = show(action=rows.action.at[4].set(-1.0))
    np.testing.assert_array_equal(other[:4], shown[:4])
    assert np.any(other[4:] != shown[4:])
    # What was before an episode's start is forgotten, otherwise it is not.
    start = start._replace(deter=start.deter + 1.0)
    np.testing.assert_array_equal(show(), shown)
    assert np.any(show(is_first=no) != shown)


@pytest.mark.long
def test_open_loop_with_a_latent_error(getkey):
    """No error of variance 0; and every image has one, the watched ones too."""
    agent = Agent((16, 16, 3), 1, key=getkey(), size=TINY)
    no = jnp.zeros((5, 2), bool)
    rows = Transition(
        jax.random.randint(getkey(), (5, 2, 16, 16, 3), 0, 256).astype(jnp.uint8),
        jax.random.uniform(getkey(), (5, 2, 1)),
        jnp.zeros((5, 2)),
        no.at[0].set(True),
        no,
        no,
    )
    key, start = getkey(), agent.model.rssm.initial(2)
    show = lambda error: openloop.predict(agent, start, rows, 2, key=key, error=error)
    plain = show(None).model
    np.testing.assert_allclose(show(zero_drift(0.0)).model, plain, atol=1e-6)
    noisy = show(zero_drift(1.0)).model
    changed = np.mean(np.abs(noisy - plain), axis=(1, 2, 3, 4))
    assert noisy.shape == plain.shape and np.all(changed > 1e-3)


def test_film_marks_what_was_watched():
    images = jnp.full((3, 2, 4, 4, 3), 0.5)
    shown = openloop.Prediction(images, jnp.zeros_like(images), 2)
    film = np.asarray(openloop.film(shown))
    assert film.shape == (3, 3 * 8, 2 * 8, 3)
    for time, color in enumerate([openloop.GREEN, openloop.GREEN, openloop.RED]):
        np.testing.assert_array_equal(film[time, 0, 0], color)
    truth, model, difference = (film[0, row * 8 + 4, 4, 0] for row in range(3))
    assert (truth, model, difference) == (128, 0, 64)


class ShortCartpole(cartpole.Cartpole):
    """Episodes of 20 control steps: an evaluation is as long as an episode."""

    episode_steps = 20


@pytest.fixture
def short():
    """The name of a task with short episodes."""

    def make(*, name: str, action_repeat: int) -> MjxEnv:
        task = ShortCartpole(swing_up=False, sparse=False)
        return MjxEnv(task, name=name, action_repeat=action_repeat)

    envs.register("short-cartpole", make, replace=True)
    return "short-cartpole"


@pytest.mark.slow
def test_smoke_run_on_images(short, tmp_path, capsys):
    """`test_every_task` has the tasks; this one what a run on images leaves behind."""
    words = f"--env {short} --obs pixels --preset smoke --logdir {tmp_path}"
    words += " --augment noise:0.01 --steps 100 --log-every 50 --eval-every 1000"
    assert main.main(words.split()) == 0
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    said = capsys.readouterr().out
    assert "images of 64x64x3, 12 KiB each" in said
    assert "are latent states in the replay buffer; the newest 3 are kept" in said
    assert np.isfinite(last["train/loss/rec"]) and last["train/skipped_updates"] == 0
    assert 0 < last["eval/openloop_error"] < 1 and "eval/return_mean" in last
    (path,) = (tmp_path / "openloop").iterdir()
    config = configured("--env cartpole-balance --obs pixels --steps 100")
    rows = Schedule.of(config).prefill_rows
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == rows
        assert image.size == (4 * 68, 3 * 68)
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert path.read_bytes() in events.read_bytes()

    words = f"--run {tmp_path} --episodes 1 --perturb none mask:50 --gravity 4"
    assert evaluate.main(words.split()) == 0
    table = capsys.readouterr().out
    assert "none gravity 4 " in table and "mask:50 gravity 4 " in table


def test_the_player_of_conditions_keeps_the_starts(monkeypatch, getkey):
    env = envs.make("toy-target")
    agent = Agent(env.spec.obs_shape[0], 1, key=getkey(), size=TINY)
    monkeypatch.setattr(scores, "BATCH", 2)
    plain = make_scorer(env, Episodes(5, 3))(agent)[0].returns
    conditions = read_conditions(env, "noise:0", "")
    (score,) = make_scorer(env, Episodes(5, 3), conditions)(agent)
    np.testing.assert_array_equal(score.returns, plain)


class Falling(cartpole.Cartpole):
    """The pole starts askew and falls on its own, as fast as gravity has it."""

    episode_steps = 20

    def initial(self, simulator, key):
        return jnp.array([0.0, 0.5]), jnp.zeros(2)


def falling(obs):
    env = MjxEnv(Falling(swing_up=False, sparse=False), name="falling", action_repeat=2)
    return PixelEnv(env) if obs == "pixels" else env


@pytest.mark.long
@pytest.mark.parametrize("acting", ["mode", "random"])
def test_gravity_is_that_of_each_condition(getkey, acting):
    env = falling("state")
    agent = Agent(env.spec.obs_shape[0], 1, key=getkey(), size=TINY)
    episodes = Episodes(2, 0, acting)
    plain = make_scorer(env, episodes)(agent)[0].returns
    conditions = read_conditions(env, "", "4 9.81 20")
    score = make_scorer(env, episodes, conditions, poses=True)
    slow, usual, fast = score(agent)
    np.testing.assert_allclose(usual.returns, plain, rtol=1e-5)
    assert np.all(slow.returns > plain + 0.1) and np.all(plain > fast.returns + 0.1)
    # The film is of the first condition: after 0.2 s of sin(0.5) · 3/2 · g / 1 m.
    assert slow.poses is not None and slow.poses.qpos.shape == (10, 2)
    assert 0.02 < slow.poses.qpos[-1, 1] - 0.5 < 0.1


@pytest.mark.slow
def test_what_an_agent_of_images_sees_is_perturbed(getkey):
    env = falling("pixels")
    agent = Agent(env.spec.obs_shape, 1, key=getkey(), size=TINY)
    conditions = read_conditions(env, "none mask:100,5,0 none", "")
    clean, white, again = make_scorer(env, Episodes(2, 0), conditions)(agent)
    np.testing.assert_array_equal(clean.returns, again.returns)
    assert np.all(clean.returns != white.returns)
