"""Environments from a few JAX functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import VectorEnv
from train import main

PARTS = {
    "initial": lambda key: {"x": jax.random.uniform(key), "steps": jnp.zeros((), int)},
    "step": lambda s, a: {"x": s["x"] + 0.1 * a[0], "steps": s["steps"] + 1},
    "observe": lambda s: jnp.stack([s["x"], s["steps"] / 10]),
    "reward": lambda s: -jnp.abs(s["x"]),
    "action_dim": 2,
    "episode_steps": 6,
    "action_repeat": 2,
}


def make(*, name="line", action_repeat=2, **changes):
    return envs.from_jax(
        **(PARTS | {"name": name, "action_repeat": action_repeat} | changes)
    )


def test_an_episode():
    env = make(control_timestep=0.5)
    assert env.spec == envs.EnvSpec(
        name="line",
        obs_shape=(2,),
        action_dim=2,
        action_repeat=2,
        episode_steps=6,
        control_timestep=0.5,
    )
    state, row = env.reset(jax.random.key(3))
    x = float(row.obs[0])
    assert row.is_first and 0 <= x < 1
    step = jax.jit(env.step)
    for decision in range(1, 4):
        state, row = step(state, jnp.array([2.0, 0.0]))  # clipped to 1
        np.testing.assert_allclose(row.obs, [x + 0.2, decision / 5], rtol=1e-6)
        np.testing.assert_allclose(row.reward, -(2 * x + 0.3), rtol=1e-5)
        x += 0.2
        assert row.is_last == (decision == 3) and not row.is_terminal
    state, row = step(state, jnp.zeros(2))
    assert row.is_first and row.obs[1] == 0 and row.obs[0] != x


def test_what_ends_for_good_and_what_breaks():
    env = make(
        terminal=lambda s: s["x"] > 2,
        step=lambda s, a: s | {"x": jnp.where(a[1] > 0, jnp.nan, s["x"] + 3)},
    )
    vector = VectorEnv(env, 2)
    state, first = vector.reset(jax.random.key(0))
    state, row = jax.jit(vector.step)(state, jnp.array([[0.0, 0.0], [0.0, 1.0]]))
    np.testing.assert_array_equal(row.is_terminal, [True, False])
    np.testing.assert_array_equal(row.is_corrupt, [False, True])
    np.testing.assert_array_equal(row.is_last, [True, True])
    np.testing.assert_array_equal(row.obs[1], first.obs[1])
    np.testing.assert_array_equal(state.corrupt_count, [0, 1])
    assert row.reward[1] == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"action_repeat": 4}, "action_repeat=4 must be a positive divisor"),
        ({"action_dim": 0}, "action_dim=0 must be at least 1"),
        ({"step": lambda s, a: s["x"]}, r"step returns float32\[\], but .*'steps'"),
        (
            {"observe": lambda s: s["x"]},
            r"observe returns float32\[\], .* a vec",
        ),
        ({"observe": lambda s: s["steps"][None]}, r"observe returns int32\[1\]"),
        ({"reward": lambda s: s["x"][None]}, r"reward returns float32\[1\], .* float"),
        ({"terminal": lambda s: s["x"]}, r"terminal returns float32\[\], .* boolean"),
    ],
)
def test_functions_that_do_not_fit(change, said):
    with pytest.raises(ValueError, match=said):
        make(**change)


@pytest.mark.slow
def test_it_is_trained_on(tmp_path, capsys):
    words = f"--preset smoke --env {__name__}:make --logdir {tmp_path} --steps 200"
    assert main.main([*words.split(), "--num-envs", "2"]) == 0
    said = capsys.readouterr().out
    assert f"environment  {__name__}:make" in said and "finished at" in said
