"""Environments that show images."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import VectorEnv
from envs.mjx.env import MjxEnv
from envs.render import Renderer
from envs.render.pixels import PixelEnv

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def pair():
    """Pendulum by numbers and by images."""
    return envs.make("pendulum"), envs.make("pendulum", obs="pixels")


def test_spec(pair):
    state, pixels = pair
    assert isinstance(pixels, PixelEnv)
    assert pixels.spec.obs_shape == (64, 64, 3) and pixels.spec.obs_dtype == "uint8"
    assert state.spec.obs_dtype == "float32" and pixels.spec.name == state.spec.name


def test_only_the_observation_differs(pair):
    """Same states and rewards; each image shows the state it comes with."""
    rows = []
    for env in pair:
        vector = VectorEnv(env, 2)

        @jax.jit
        def play(key, vector=vector):
            state, first = vector.reset(key)
            step = lambda state, a: vector.step(state, a)
            state, row = jax.lax.scan(step, state, jnp.ones((3, 2, 1)))
            return state, first, row

        rows.append(play(jax.random.key(1)))
    (state, _, row), (seen_state, seen_first, seen) = rows
    np.testing.assert_allclose(seen_state.qpos, state.qpos, atol=1e-6)
    np.testing.assert_allclose(seen.reward, row.reward, atol=1e-6)
    assert seen_first.obs.dtype == seen.obs.dtype == jnp.uint8
    assert seen.obs.shape == (3, 2, 64, 64, 3)
    one = jax.tree.map(lambda x: x[1], seen_state)
    again = pair[1].observe(one).astype(int)
    assert np.abs(again - seen.obs[-1, 1].astype(int)).max() <= 2
    assert np.abs(seen.obs[-1, 1].astype(int) - seen_first.obs[1]).max() > 50


def test_a_new_episode_is_drawn_as_it_begins(pair):
    env = pair[1]
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    over = dataclasses.replace(state, needs_reset=jnp.asarray(True))
    begun, row = jax.jit(env.step)(over, jnp.zeros(1))
    assert row.is_first
    shown = env.observe(begun).astype(int)
    assert np.abs(shown - row.obs.astype(int)).max() <= 2


def test_a_picture_is_drawn_once_a_step(pair, monkeypatch):
    calls = []
    draw = Renderer.draw
    monkeypatch.setattr(
        Renderer, "draw", lambda self, pose: calls.append(1) or draw(self, pose)
    )
    env = envs.make("pendulum", obs="pixels")
    state, _ = jax.eval_shape(env.reset, jax.random.key(0))
    calls.clear()
    jax.eval_shape(env.step, state, jnp.zeros(1))
    assert len(calls) == 1
    # And in a batch it is one program, of a reset, a decision and a restart.
    calls.clear()
    vector = VectorEnv(env, 2)
    state, _ = jax.eval_shape(vector.reset, jax.random.key(0))
    text = jax.jit(vector.step).lower(state, jnp.zeros((2, 1))).as_text()
    assert len(calls) == 1
    assert text.count("call @observe(") == 1


def test_numbers_are_never_drawn(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("drawn")

    monkeypatch.setattr(Renderer, "__init__", refuse)
    monkeypatch.setattr(Renderer, "draw", refuse)
    env = envs.make("pendulum")
    assert isinstance(env, MjxEnv)
    state, _ = jax.eval_shape(env.reset, jax.random.key(0))
    jax.eval_shape(env.step, state, jnp.zeros(1))
    with pytest.raises(AssertionError, match="drawn"):
        envs.make("pendulum", obs="pixels")


def pixel_env(name: str) -> PixelEnv:
    env = envs.make(name, obs="pixels")
    assert isinstance(env, PixelEnv)
    return env


def test_cameras_and_marks():
    assert pixel_env("quadruped").inner.task.camera == 2
    assert pixel_env("walker").inner.task.camera == 0
    names = {"finger-spin": set(), "finger-turn_easy": {"target", "tip"}}
    for task, expected in names.items():
        env = pixel_env(task)
        model = env.inner.model
        solids = env.renderer.scene.solids
        sites = {model.site(s.index).name for s in solids if s.source == "site"}
        assert sites & {"target", "tip"} == expected


def test_what_has_no_model_is_refused():
    with pytest.raises(ValueError, match=r"toy-target has no MuJoCo model to draw"):
        envs.make("toy-target", obs="pixels")


def test_the_camera_of_a_users_own_model_is_chosen():
    plain = envs.make("pendulum")
    assert isinstance(plain, MjxEnv)
    model, observe = plain.model, lambda model, data: data.qpos
    reward = lambda model, data: data.qpos[0]
    env = envs.from_mjx(model, observe=observe, reward=reward, camera="lookat")
    assert PixelEnv(env).renderer.scene.camera.offset[1] == -2
    assert PixelEnv(plain).renderer.scene.camera.offset[1] == -1.5
