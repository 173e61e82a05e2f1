"""Several agents in one program: both ways compute the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import VectorEnv
from train import loop
from train.config.cli import parse
from train.placement.agents import one_by_one, side_by_side
from train.placement.placement import Placement
from train.preflight.setup import make_env
from train.processes import coordination
from train.program.penalty import choose_penalty

COUNT = 3


def move(state):
    """A state that follows, and what is said of it; draws from its own key."""
    key, draw = jax.random.split(state["key"])
    x = state["x"] + jax.random.normal(draw, (4,))
    return {"key": key, "x": x, "n": state["n"] + 1}, jnp.sum(x)


def states():
    return {
        "key": jax.random.split(jax.random.key(0), COUNT),
        "x": jnp.arange(4.0 * COUNT).reshape(COUNT, 4),
        "n": jnp.arange(COUNT),
    }


def numbers(tree):
    return [
        np.asarray(
            jax.random.key_data(x)
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
            else x
        )
        for x in jax.tree.leaves(tree)
    ]


@pytest.mark.parametrize("in_place", [False, True])
def test_one_by_one_is_side_by_side(in_place):
    expected = numbers(jax.jit(side_by_side(move))(states()))
    found = numbers(jax.jit(one_by_one(move, in_place=in_place))(states()))
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_in_place_no_agent_is_there_twice():
    """Memory beside the states that are overwritten: that of one agent or two."""
    size = 1 << 20
    state = jax.ShapeDtypeStruct((8, size), jnp.float32)

    def step(x):
        return jax.lax.fori_loop(0, 10, lambda _, x: jnp.sin(x), x), x[0]

    def used(function):
        compiled = jax.jit(function, donate_argnums=0).lower(state).compile()
        found = compiled.memory_analysis()
        assert found is not None
        return found.temp_size_in_bytes / (4 * size)

    assert used(one_by_one(step, in_place=True)) <= 3
    assert used(one_by_one(step)) >= 8


@pytest.mark.parametrize(
    ("seeds", "cores", "most", "expected"),
    [(1, 2, None, 1), (8, 2, None, 2), (8, 16, None, 8), (9, 8, None, 3)]
    + [(3, 2, None, 1), (8, 8, 5, 4), (10**9, 4, None, 4), (0, 4, None, 1)],
)
def test_cores_that_agents_use(monkeypatch, seeds, cores, most, expected):
    monkeypatch.setattr(coordination, "usable_cores", lambda: cores)
    assert coordination.cpu_devices(seeds, most) == expected


@pytest.mark.slow
def test_training_is_the_same_both_ways():
    """A GPU computes agents side by side, a CPU one by one."""
    words = "--preset smoke --env toy-target --penalty none --seeds 2 --devices 1"
    config = parse(words.split(), "cpu")
    env = VectorEnv(make_env(config), config.num_envs)
    found = []
    for in_turn in (True, False):
        place = Placement.of(config)
        assert place.in_turn
        place.in_turn = in_turn
        made = loop.Programs(config, env, choose_penalty(config, "cpu"), place)
        run, _ = made.prefill(made.init(made.keys(0)))
        run, output = made.chunk(run)
        found.append((run, output))
    (one, first), (two, second) = found
    assert int(jnp.sum(one.learner.updates)) > 0
    np.testing.assert_array_equal(one.learner.updates, two.learner.updates)
    losses = [x.metrics["loss/total"] for x in (first, second)]
    assert losses[0].shape[0] == 2
    np.testing.assert_allclose(*losses, rtol=1e-3)
