"""Gravity, friction, mass and gain that differ from state to state."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs.mjx._mjx import mujoco
from envs.mjx.assets import assets_folder, load_model
from envs.mjx.env import MjxEnv
from envs.mjx.parameters import Parametrization

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("quick_compiles")]

# All but the two that take a second each.
MODELS = sorted(
    path.name
    for path in assets_folder().glob("*.xml")
    if path.stem not in ("dog", "humanoid_CMU")
)

# A box that slides on a rough floor, pushed by a motor and by a spring-like servo.
BOX = """
<mujoco model="box">
  <option timestep="0.005" iterations="100" ls_iterations="50" tolerance="1e-12"/>
  <worldbody>
    <geom name="floor" type="plane" size="5 5 1" friction="0.4"/>
    <body pos="0 0 0.1">
      <joint name="x" type="slide" axis="1 0 0" armature="0.2"/>
      <joint name="z" type="slide" axis="0 0 1"/>
      <geom type="box" size="0.1 0.1 0.1" mass="2" friction="0.3"/>
      <body pos="0 0 0.2">
        <joint name="arm" axis="0 1 0" limited="true" range="-20 20"/>
        <geom type="capsule" size="0.02" fromto="0 0 0 0 0 0.3" mass="0.3"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <motor joint="x" gear="30" ctrllimited="true" ctrlrange="-1 1"/>
    <position joint="arm" kp="3" ctrllimited="true" ctrlrange="-0.5 0.5"/>
  </actuator>
</mujoco>
"""
VALUES = {
    "gravity": np.array([9.81, 4.0, 9.81, 9.81, 15.0]),
    "friction": np.array([1.0, 1.0, 3.0, 1.0, 0.5]),
    "mass": np.array([1.0, 1.0, 1.0, 2.5, 0.6]),
    "gain": np.array([1.0, 1.0, 1.0, 1.0, 1.7]),
}
N = 5
# On the floor at 0.5 m/s, the arm near its limit.
QPOS, QVEL = np.array([0.0, -1e-4, 0.345]), np.array([0.5, 0.0, 0.5])
ACTION = np.array([0.2, 0.8])


@functools.cache
def box() -> MjxEnv:
    return envs.from_mjx(
        mujoco.MjModel.from_xml_string(BOX),
        observe=lambda model, data: jnp.concatenate([data.qpos, data.qvel]),
        reward=lambda model, data: data.qpos[0],
        control_timestep=0.05,
    )


@functools.cache
def step() -> Any:
    return jax.jit(jax.vmap(box().step))


def starts(env=None, **values):
    """The same state five times, with the values of `VALUES`, and an action each."""
    env = box() if env is None else env
    qpos, qvel, action = (np.tile(row, (N, 1)) for row in (QPOS, QVEL, ACTION))
    state = jax.vmap(env.from_physics)(qpos, qvel)
    return env.with_physics(state, **values), action


def in_mujoco(index):
    """Where MuJoCo itself takes start number `index` in one control step."""
    model = mujoco.MjModel.from_xml_string(BOX)
    gravity, friction, mass, gain = (VALUES[name][index] for name in VALUES)
    model.opt.gravity[:] = [0, 0, -gravity]
    model.geom_friction[:] *= friction
    model.body_mass[:] *= mass
    model.body_inertia[:] *= mass
    model.actuator_gainprm[:] *= gain
    model.actuator_biasprm[:] *= gain
    data = mujoco.MjData(model)
    mujoco.mj_setConst(model, data)
    data.qpos[:], data.qvel[:] = QPOS, QVEL
    data.ctrl[:] = ACTION * [1.0, 0.5]
    mujoco.mj_step(model, data, 10)
    return np.concatenate([data.qpos, data.qvel])


@pytest.mark.parametrize("file", MODELS)
@pytest.mark.parametrize("mass", [0.5, 1.0, 1.7])
def test_constants_of_other_masses_are_mujocos(file, mass):
    model, theirs = load_model(file), load_model(file)
    theirs.body_mass[:] *= mass
    theirs.body_inertia[:] *= mass
    mujoco.mj_setConst(theirs, mujoco.MjData(theirs))
    rule = Parametrization.of(model)
    extra = (mass - 1) * rule.share
    for name in ("body", "dof", "tendon"):
        full = f"{name}_invweight0"
        ours = getattr(model, full) - getattr(rule, name) @ (extra / (1 + extra))
        np.testing.assert_allclose(ours, getattr(theirs, full), rtol=1e-7, atol=1e-9)


def test_a_step_is_mujocos():
    jax.clear_caches()  # jax keeps constants of mjx in the precision used first
    with jax.enable_x64(True):
        env = box.__wrapped__()
        state, action = starts(env, **VALUES)
        after, _ = jax.jit(jax.vmap(env.step))(state, action)
        ours = np.concatenate([after.qpos, after.qvel], axis=1)
    jax.clear_caches()
    theirs = np.stack([in_mujoco(i) for i in range(N)])
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    # Every parameter was felt.
    moved = np.max(np.abs(theirs - theirs[:1]), axis=1)
    assert np.all(moved[1:] > 1e-3), moved


def test_a_batch_equals_single_runs():
    state, action = starts(**VALUES)
    after, row = step()(state, action)
    for i in range(N):
        single, _ = starts(**{name: VALUES[name][i] for name in VALUES})
        alone, alone_row = step()(single, action)
        np.testing.assert_allclose(after.qpos[i], alone.qpos[i], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(row.obs[i], alone_row.obs[i], rtol=1e-5, atol=1e-5)
    assert len(np.unique(after.qvel[:, 0])) == N
    assert step()._cache_size() == 1  # no value was compiled in


def test_parameters_survive_the_automatic_reset():
    state, action = starts(**VALUES)
    state = dataclasses.replace(state, needs_reset=jnp.ones(N, bool))
    state, row = step()(state, action)
    assert np.all(row.is_first)
    for name, value in VALUES.items():
        np.testing.assert_allclose(getattr(state.parameters, name), value, rtol=1e-6)
    np.testing.assert_array_equal(state.gravity, state.parameters.gravity)


def test_what_is_not_given_stays():
    state, _ = starts(mass=2.0)
    state = box().with_physics(state, friction=VALUES["friction"])
    state = box().with_gravity(state, 4.0)
    parameters = state.parameters
    assert np.all(parameters.mass == 2) and np.all(parameters.gain == 1)
    np.testing.assert_allclose(parameters.friction, VALUES["friction"])
    assert np.all(parameters.gravity == 4)


def test_parameters_may_be_traced():
    state = box().from_physics(np.zeros(3), np.zeros(3))
    heavy = jax.jit(lambda mass: box().with_physics(state, mass=mass))(jnp.asarray(3.0))
    assert heavy.parameters.mass == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mass": 0.0}, r"mass=0\.0 must be positive and finite"),
        ({"friction": -1.0}, r"friction=-1\.0 must be positive"),
        ({"gravity": float("nan")}, "gravity=nan must be at least 0 and finite"),
        ({"gravity": -9.0}, "gravity=-9.0 must be at least 0"),
        ({"gain": float("inf")}, "gain=inf must be finite"),
        (
            {"gain": np.ones(3)},
            r"gain has shape \(3,\), but the states have shape \(5,\)",
        ),
    ],
)
def test_wrong_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        starts(**values)


def test_muscles_are_refused():
    xml = BOX.replace(
        '<motor joint="x" gear="30" ', '<muscle joint="x" lengthrange="0 1" '
    )
    rule = Parametrization.of(mujoco.MjModel.from_xml_string(xml))
    for name in ("mass", "gain"):
        with pytest.raises(ValueError, match=f"{name} cannot be changed.*muscles"):
            rule.check(**{name: 2.0})
    rule.check(gravity=1.0, friction=2.0, mass=None)
