"""NaN and Inf are marked where a row leaves an environment, first rows included."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_envs_checks import from_jax, from_mjx

import envs


def bad_at(step: int, bad: float, where: str) -> Any:
    """Counts its steps; in one of them a number is not finite."""

    def spoiled(s, what):
        return jnp.where((s["t"] == step) & (where == what), bad, 0.0)

    return from_jax(
        initial=lambda key: {"t": 0, "hidden": jnp.where(step == 0, bad, 0.0)
                             if where == "state" else 0.0},
        step=lambda s, a: {"t": s["t"] + 1, "hidden":
                           spoiled({"t": s["t"] + 1}, "state")},
        observe=lambda s: jnp.stack([s["t"] + spoiled(s, "obs"), 1.0]),
        reward=lambda s: 1.0 + spoiled(s, "reward"),
        action_repeat=1,
    )  # fmt: skip


@pytest.mark.parametrize("where", ["obs", "reward", "state"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_marked_where_it_leaves(where, bad):
    env = bad_at(2, bad, where)
    step = jax.jit(env.step)
    state, row = env.reset(jax.random.key(0))
    for expected in (False, True, False, False, True):
        state, row = step(state, jnp.zeros(2))
        assert bool(row.is_corrupt) == bool(row.is_last) == expected
        assert np.all(np.isfinite(row.obs)) and np.isfinite(row.reward)
        assert not row.is_terminal and (row.reward == 0) == (expected or row.is_first)
    assert state.corrupt_count == 2


@pytest.mark.parametrize(
    ("where", "bad"), [("obs", np.nan), ("obs", -np.inf), ("state", np.nan)]
)
def test_a_first_row_that_is_not_finite_ends_its_episode(where, bad):
    env = bad_at(0, bad, where)
    for rows in (env, envs.VectorEnv(env, 2)):
        state, row = rows.reset(jax.random.key(0))
        for drawn in range(1, 4):  # each step draws again: no loop inside of one
            assert np.all(row.is_first & row.is_corrupt & row.is_last)
            assert np.all(np.isfinite(row.obs)) and np.all(state.needs_reset)
            assert np.all(state.corrupt_count == drawn)
            state, row = rows.step(state, jnp.zeros((*row.reward.shape, 2)))


def test_observations_too_large_for_float32_are_corrupt():
    with jax.enable_x64(True):
        env = from_jax(observe=lambda s: s + 1e300)
        assert env.reset(jax.random.key(0))[1].is_corrupt


def test_a_model_whose_episodes_begin_with_nan():
    env = from_mjx(initial=lambda m, key: (jnp.full(1, jnp.nan), jnp.zeros(1)))
    state, row = jax.jit(env.reset)(jax.random.key(0))
    assert row.is_corrupt and row.is_first and row.is_last
    assert np.isfinite(row.obs) and np.isfinite(state.qpos)


def test_a_models_observation_that_is_not_finite():
    env = from_mjx(observe=lambda m, d: jnp.arccos(0.5 + d.qpos))
    step = jax.jit(env.step)
    for x, bad in ((0.0, False), (1.0, True)):
        _, row = step(env.from_physics(np.full(1, x), np.zeros(1)), jnp.zeros(1))
        assert bool(row.is_corrupt) == bool(row.is_last) == bad
        assert np.all(np.isfinite(row.obs))


class Careless(type(from_jax())):
    """An environment of one's own that marks nothing."""

    def reset(self, key):
        state, row = super().reset(key)
        return state, dataclasses.replace(row, obs=row.obs * jnp.nan)


def test_rows_of_any_environment_are_marked_where_they_are_collected():
    plain = from_jax()
    fields = [getattr(plain, f.name) for f in dataclasses.fields(plain)]
    state, row = envs.VectorEnv(Careless(*fields), 3).reset(jax.random.key(0))
    assert np.all(row.is_corrupt & row.is_last) and np.all(row.obs == 0)
    assert np.all(state.needs_reset) and state.corrupt_count.tolist() == [1, 1, 1]
