"""What MJX computes with on a GPU: factors in scalars, an unrolled line search."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from jax.extend import core
from mujoco.mjx._src import forward, math, smooth, solver
from parity_checks import FILTER, assert_within, errors_of

from envs.mjx import gpu_form, linear_algebra
from envs.mjx._mjx import mujoco
from envs.mjx.linear_algebra import LARGEST, WIDEST
from envs.mjx.simulator import Simulator

pytestmark = [FILTER, pytest.mark.long]

LIBRARY = {"cholesky", "triangular_solve"}
CONDITION = 100.0
# For each integrator: they differ in what they factor.
ARM = """
<mujoco>
  <option integrator="{integrator}"/>
  <worldbody>
    <geom type="plane" size="1 1 1"/>
    <body pos="0 0 0.3">
      <joint axis="0 1 0" damping="0.1"/>
      <geom type="capsule" size="0.02" fromto="0 0 0 0 0 0.2"/>
      <body pos="0 0 0.2">
        <joint axis="0 1 0" damping="0.1"/>
        <geom type="capsule" size="0.02" fromto="0 0 0 0 0 0.2"/>
      </body>
    </body>
  </worldbody>
</mujoco>
"""


@pytest.fixture(scope="module", autouse=True)
def fresh_caches():
    # jax keeps the constants inside mjx in the precision that used them first.
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.fixture
def on_gpu(monkeypatch):
    """What is traced in the test is traced as on a GPU."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def positive_matrices(n, batch=3):
    """Matrices with eigenvalues from 1 to `CONDITION`."""
    rng = np.random.default_rng(n)
    turn, _ = np.linalg.qr(rng.normal(size=(batch, n, n)))
    return (turn * np.geomspace(1, CONDITION, n)) @ turn.mT, rng.normal(size=(batch, n))


def both(a, b, lower):
    """Factor and solution, by a new function: nothing is traced before."""

    def found(a, b):
        factor = linear_algebra.cho_factor(a, lower)
        assert factor[1] == lower
        return factor[0], linear_algebra.cho_solve(factor, b)

    return jax.vmap(found)(a, b)


SIZES = [
    (1, False),
    (2, True),
    (9, False),
    (WIDEST, False),
    (WIDEST + 1, False),
    (WIDEST + 1, True),
    (LARGEST, False),
]


@pytest.mark.parametrize("x64", [True, False])
@pytest.mark.parametrize(("n", "lower"), SIZES)
def test_factor_and_solution_are_those_of_the_library(n, lower, x64, on_gpu):
    with jax.enable_x64(x64):
        a, b = (jnp.asarray(x, float) for x in positive_matrices(n))
        made = jax.make_jaxpr(functools.partial(both, lower=lower))(a, b)
        assert not LIBRARY & primitives(made.jaxpr)
        # The other triangle is not read.
        half = jnp.where(jnp.tri(n, dtype=bool) == lower, a, jnp.nan)
        half = jnp.where(jnp.eye(n, dtype=bool), a, half)
        factor, x = both(half, b, lower)
        factors = jax.vmap(lambda a: jax.scipy.linalg.cho_factor(a, lower)[0])(a)
        solved = jax.vmap(lambda c, b: jax.scipy.linalg.cho_solve((c, lower), b))
        assert factor.dtype == x.dtype == a.dtype
        rounding = n * CONDITION * float(jnp.finfo(a.dtype).eps)
        np.testing.assert_allclose(factor, factors, atol=rounding)
        np.testing.assert_allclose(x, solved(factors, b), atol=rounding)


@pytest.mark.parametrize("n", [3, WIDEST + 1])
def test_what_is_not_positive_definite_has_no_solution(n, on_gpu):
    for pivot in (0.0, -1.0):
        a = jnp.eye(n)[None].at[0, n // 2, n // 2].set(pivot)
        _, x = both(a, jnp.ones((1, n)), False)
        assert np.isnan(x).all()


def test_larger_matrices_and_cpus_have_the_library(monkeypatch):
    def found(n):
        made = jax.make_jaxpr(lambda a, b: both(a, b, False))
        return primitives(made(*(jnp.asarray(x) for x in positive_matrices(n))).jaxpr)

    assert found(3) >= LIBRARY
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not found(3) & LIBRARY
    assert found(LARGEST + 1) >= LIBRARY


def equations(jaxpr):
    """Those of a program and of all programs inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in core.jaxprs_in_params(equation.params):
            yield from equations(inner)


def primitives(jaxpr):
    return {equation.primitive.name for equation in equations(jaxpr)}


def step_of(xml):
    """A physics step, not traced before."""
    simulator = Simulator.of(mujoco.MjModel.from_xml_string(xml))
    step = lambda physics: simulator.step(physics, steps=1)
    return jax.make_jaxpr(step)(simulator.at_rest())


@pytest.mark.parametrize("integrator", ["Euler", "implicitfast", "RK4"])
def test_mjx_calls_what_is_replaced(integrator, monkeypatch):
    xml = ARM.format(integrator=integrator)
    usual = step_of(xml)
    assert primitives(usual.jaxpr) >= LIBRARY
    for module in (smooth, forward, solver):
        monkeypatch.setattr(module, "jax", jax)
    assert str(step_of(xml)) == str(usual)  # on a CPU, MJX's own program
    monkeypatch.undo()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    on_gpu = step_of(xml)
    assert not LIBRARY & primitives(on_gpu.jaxpr)
    unrolled = lambda made: {
        equation.params["unroll"]
        for equation in equations(made.jaxpr)
        if equation.primitive.name == "scan" and equation.params["length"] == 50
    }
    assert unrolled(usual) == {1} and unrolled(on_gpu) == {gpu_form.UNROLL}


def test_others_have_jax_as_it_is():
    assert jax.scipy.linalg.cho_factor is not linear_algebra.cho_factor
    assert math.jax is jax
    assert solver.jax.numpy is jax.numpy
    assert solver.jax.lax.while_loop is jax.lax.while_loop


def test_another_version_of_mjx_is_noticed():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gpu_form.check(gpu_form.CALLED)

    def other(a):
        return jnp.linalg.cholesky(a)

    with pytest.warns(UserWarning, match="other does not call cho_factor: on a GPU"):
        gpu_form.check({other: frozenset({"cho_factor"})})


@pytest.mark.parametrize(
    ("group", "allowed"),
    [
        ("walker", (1e-11, 1e-9)),
        pytest.param("quadruped", (1e-10, 1e-4), marks=pytest.mark.slow),
    ],
)
def test_agreement_with_dm_control(group, allowed, monkeypatch):
    """As in the tests of the form for CPUs, half of the walker's states in contact.

    All but the unrolling, of which XLA for CPUs makes functions that take minutes to
    compile.
    """
    monkeypatch.setattr(gpu_form, "UNROLL", 1)
    name = parity.task_of(group)
    with jax.enable_x64(True):
        states, action = parity.begun(group), parity.visited(group)[-1]
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        advance = jax.jit(jax.vmap(lambda *x: parity.make(name).advance(*x)))
        traced = advance.trace(states, action)
        assert not LIBRARY & primitives(traced.jaxpr)
        state, _ = advance(states, action)
        assert state.qpos.dtype == jnp.float64
    qpos, qvel, _ = parity.steps_of(parity.load(name), name)
    assert_within(errors_of(state.qpos, qpos), allowed)
    assert_within(errors_of(state.qvel, qvel), allowed)
