"""MJX's small functions in few operations: the same values, and how few."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core
from jax.interpreters import partial_eval
from mujoco.mjx._src import math, scan

import envs
from envs.mjx import array_form
from envs.mjx.env import MjxEnv

# Shapes of the arguments; a quaternion and a matrix as they come, not of unit length.
SHAPES = {
    "rotate": ((3,), (4,)),
    "quat_mul": ((4,), (4,)),
    "quat_to_mat": ((4,),),
    "axis_angle_to_quat": ((3,), ()),
    "matmul_unroll": ((3, 4), (4, 2)),
    "motion_cross": ((6,), (6,)),
    "motion_cross_force": ((6,), (6,)),
    "inert_mul": ((10,), (6,)),
    "norm": ((3,),),
}


def drawn(shapes, batch, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=(batch, *shape))) for shape in shapes]


def test_every_function_is_replaced():
    assert array_form.MJX.keys() == SHAPES.keys() | {"_take"}
    for name in SHAPES:
        assert getattr(math, name) is getattr(array_form, name)
        assert array_form.MJX[name].__module__ == math.__name__
    assert scan._take is array_form.take


@pytest.mark.parametrize("name", SHAPES)
def test_values_and_gradients_are_those_of_mjx(name):
    with jax.enable_x64(True):
        given = drawn(SHAPES[name], batch=20)
        weights = drawn([()], batch=20, seed=1)[0]

        def found(function):
            mapped = jax.vmap(function)
            total = lambda *args: jnp.sum(
                jax.vmap(jnp.multiply)(mapped(*args), weights) ** 2
            )
            return mapped(*given), jax.grad(total, range(len(given)))(*given)

        ours, theirs = found(getattr(math, name)), found(array_form.MJX[name])
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12),
            ours,
            theirs,
        )


@pytest.mark.parametrize("x", [[0.0, 0.0, 0.0], [1e-9, 0.0, -1e-9], [1e-7, 0.0, 0.0]])
def test_a_length_of_nothing_is_zero_with_a_finite_gradient(x):
    x = jnp.array(x)
    assert math.norm(x) == array_form.MJX["norm"](x)
    np.testing.assert_allclose(
        jax.grad(math.norm)(x), jax.grad(array_form.MJX["norm"])(x), rtol=1e-6
    )
    assert jnp.isnan(math.norm(x.at[0].set(jnp.nan)))


@pytest.mark.parametrize("axis", [0, -1, (0, 1)])
def test_lengths_along_an_axis(axis):
    x = drawn([(3, 4)], batch=1)[0][0]
    ours, theirs = math.norm(x, axis=axis), array_form.MJX["norm"](x, axis=axis)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize(
    "index",
    [
        np.array([0, 1, 2]),
        np.array([1, 2]),
        np.array([4]),
        np.array([2, 0, 2]),
        np.array([-1, 1]),
        np.array([-2, -1]),
        np.array([-1, 0]),
        np.array([[0, 3], [4, 1]]),
        np.zeros(0, int),
    ],
    ids=str,
)
def test_the_rows_are_those_that_mjx_takes(index):
    tree = {"a": jnp.arange(15.0).reshape(5, 3), "b": jnp.arange(5), "none": ()}
    ours, theirs = scan._take(tree, index), array_form.MJX["_take"](tree, index)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    known = np.arange(5)
    assert isinstance(scan._take(known, index), np.ndarray)
    empty = jnp.zeros((0, 3))
    assert scan._take(empty, index) is empty


def operations(jaxpr):
    """Operations, those of inner functions for each call, that the result needs."""
    jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return sum(
        sum(map(operations, map(_open, core.jaxprs_in_params(each.params)))) or 1
        for each in jaxpr.eqns
    )


def _open(jaxpr):
    return getattr(jaxpr, "jaxpr", jaxpr)


@pytest.mark.long
@pytest.mark.parametrize(("task", "share"), [("walker-walk", 0.5)])
def test_a_physics_step_has_half_the_operations(task, share, monkeypatch):
    env = envs.make(task)
    assert isinstance(env, MjxEnv)
    state, _ = jax.eval_shape(env.reset, jax.random.key(0))
    step = lambda physics: env._simulator.step(physics, steps=1)
    ours = operations(jax.make_jaxpr(step)(state.physics).jaxpr)
    for name in SHAPES:
        monkeypatch.setattr(math, name, array_form.MJX[name])
    monkeypatch.setattr(scan, "_take", array_form.MJX["_take"])
    again = lambda physics: env._simulator.step(physics, steps=1)
    theirs = operations(jax.make_jaxpr(again)(state.physics).jaxpr)
    assert ours < share * theirs
