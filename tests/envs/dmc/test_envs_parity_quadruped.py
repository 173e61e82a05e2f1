"""Quadruped against dm_control, in float64."""

import jax
import numpy as np
import parity
import pytest
from dm_control.suite import quadruped as reference
from parity_checks import (
    FILTER,
    assert_within,
    check_control_step,
    check_resets,
    check_rewards,
    errors_of,
)
from parity_checks import float64 as float64

from envs.dmc import quadruped
from envs.mjx._mjx import mujoco
from envs.mjx.simulator import Simulator

pytestmark = [FILTER, pytest.mark.long]

SPEEDS = {"quadruped-walk": 0.5, "quadruped-run": 5.0}
NAMES = tuple(SPEEDS)
GROUP = "quadruped"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_control_step(name):
    check_control_step(name, (1e-10, 1e-4))


@pytest.mark.slow
def test_activations_after_a_control_step():
    state, _ = parity.advanced(GROUP)
    before, action = parity.visited(GROUP)[2], parity.visited(GROUP)[-1]
    control = parity.native(parity.load(NAMES[0]), action)
    # A first-order filter of 0.1 s over 4 steps of 0.005 s.
    expected = control + (1 - 0.05) ** 4 * (before - control)
    np.testing.assert_allclose(state.physics.act, expected, atol=1e-12)
    assert np.ptp(before) > 1.5


@pytest.mark.slow
def test_observation_at_the_start():
    obs, _ = parity.measure(NAMES[0])(parity.begun(GROUP))
    dm_env, theirs, n_touching = parity.load(NAMES[0]), [], 0
    for *coordinates, _ in zip(*parity.visited(GROUP), strict=True):
        parity.put(dm_env, NAMES[0], *coordinates)
        n_touching += dm_env.physics.data.ncon > 0
        theirs.append(parity.flat(dm_env.task.get_observation(dm_env.physics)))
    assert obs.shape == (parity.N_STATES, 78)
    assert_within(errors_of(obs, theirs), (1e-10, 1e-6))
    assert n_touching >= parity.N_STATES // 2
    assert np.mean(np.abs(obs[:, 54:]) > 1) > 0.2  # the forces are not small


@pytest.mark.parametrize(("name", "speed"), SPEEDS.items())
def test_rewards(name, speed):
    def case(forward, turn, reward):
        """The robot in the air, turned about its x axis, which is forward."""
        qpos, qvel = np.zeros(23), np.zeros(22)
        qpos[2], qpos[3], qpos[4] = 2.0, np.cos(turn / 2), np.sin(turn / 2)
        qvel[0] = forward
        return qpos, qvel, np.zeros(0), reward

    check_rewards(
        name,
        [
            case(speed, 0.0, 1.0),
            case(2 * speed, 0.0, 1.0),
            case(0.6 * speed, 0.0, 0.8),
            case(0.0, 0.0, 0.5),
            case(-speed, 0.0, 0.0),
            case(speed, np.pi / 2, 0.5),
            case(speed, np.pi, 0.0),
            case(0.0, np.pi / 3, 0.5 * 0.75),
        ],
    )


def test_resets():
    start = check_resets(NAMES[0], 500)
    model = parity.make(NAMES[0]).model
    data = mujoco.MjData(model)
    for row in start[:50]:
        for lowered, touches in ((0.0, False), (quadruped.START_STEP, True)):
            data.qpos[:] = row[:23]
            data.qpos[2] -= lowered
            mujoco.mj_forward(model, data)
            assert (data.ncon > 0) == touches


def test_start_height_is_that_of_the_search():
    simulator = parity.make(NAMES[0])._simulator
    rotation = np.random.default_rng(0).normal(size=(100, 4))
    rotation /= np.linalg.norm(rotation, axis=1, keepdims=True)
    raised = jax.jit(jax.vmap(lambda r: quadruped._raised(simulator, r)))(rotation)
    physics = parity.load(NAMES[0]).physics
    for ours, orientation in zip(np.asarray(raised), rotation, strict=True):
        reference._find_non_contacting_height(physics, orientation)
        np.testing.assert_allclose(ours, physics.data.qpos, atol=1e-12)


FLOOR_AND_CAPSULE = """
<mujoco><worldbody>
  <geom type="plane" size="1 1 1" euler="{tilt} 0 0"/>
  <body><freejoint/><geom type="capsule" size=".1 .2"/></body>
</worldbody></mujoco>
"""


@pytest.mark.parametrize("tilt", [0, 40, 90])
def test_contacts_of_capsules_with_the_floor(tilt):
    model = mujoco.MjModel.from_xml_string(FLOOR_AND_CAPSULE.format(tilt=tilt))
    rng = np.random.default_rng(0)
    # From almost upright to any rotation.
    turn = rng.normal(size=(64, 4)) * np.linspace(0.01, 2, 64)[:, None]
    qpos = np.hstack([0.1 * rng.normal(size=(64, 3)), turn + [1.0, 0.0, 0.0, 0.0]])
    qpos[:, 3:] /= np.linalg.norm(qpos[:, 3:], axis=1, keepdims=True)
    simulator, data = Simulator.of(model), mujoco.MjData(model)

    contacts = jax.jit(jax.vmap(simulator.contacts))(qpos)
    dist, pos, frame = map(np.asarray, (contacts.dist, contacts.pos, contacts.frame))
    axis = 1 - 2 * (qpos[:, 4] ** 2 + qpos[:, 5] ** 2)
    compared = 0
    for i, row in enumerate(qpos):
        data.qpos[:] = row
        mujoco.mj_forward(model, data)
        for theirs in data.contact:
            k = np.argmin(np.linalg.norm(pos[i] - theirs.pos, axis=1))
            np.testing.assert_allclose(pos[i, k], theirs.pos, atol=1e-12)
            np.testing.assert_allclose(dist[i, k], theirs.dist, atol=1e-12)
            np.testing.assert_allclose(frame[i, k].ravel(), theirs.frame, atol=1e-9)
            compared += 1
    assert compared > 40 and np.sum(np.abs(axis) > 0.9) > 10  # some of them steep


def test_model_is_that_of_the_suite():
    skipped = ("names", "text", "exclude", "numeric", "nbuffer", "nnames", "signature")
    for name, speed in SPEEDS.items():
        ours = quadruped.TASKS[name.split("-")[1]].load()
        theirs = parity.load(name).physics.model.ptr
        assert ours.geom("floor").size[0] == 20 * speed
        compared = 0
        for field in dir(ours):
            value = getattr(ours, field)
            if field[0] == "_" or not isinstance(value, int | float | np.ndarray):
                continue
            if field.endswith("adr") and field.startswith("name_"):
                continue
            if any(part in field for part in skipped) or field == "nexclude":
                continue
            np.testing.assert_array_equal(value, getattr(theirs, field), err_msg=field)
            compared += 1
        assert compared > 300


def test_bodies_that_are_not_checked_stay_apart():
    """All joints up to 12 degrees beyond their limits, most of them at the extremes."""
    checked = quadruped.TASKS["walk"].load()
    whole = parity.load(NAMES[0]).physics.model.ptr
    names = {body: checked.body(body).name for body in range(checked.nbody)}
    excluded = {frozenset(pair) for pair in quadruped._never_touching()}
    low, high = whole.jnt_range[1:].T
    beyond = np.deg2rad(12)
    rng, data = np.random.default_rng(0), mujoco.MjData(whole)
    whole.geom_margin[1:] = 0.02  # of either geom: pairs closer than 0.04 m are listed
    met = set()
    for _ in range(2000):
        unit = np.where(rng.random(16) < 0.7, rng.integers(0, 2, 16), rng.random(16))
        angle = (low - beyond + unit * (high - low + 2 * beyond)).reshape(4, 4)
        # The tendons keep the sum of the three pitches of a leg near 0.
        angle[:, 3] = np.clip(-angle[:, 1:3].sum(1), *np.deg2rad([-65, 70]))
        coupled = np.abs(angle[:, 1:].sum(1)) < np.deg2rad(12)
        data.qpos[2], data.qpos[7:] = 5.0, angle.ravel()
        mujoco.mj_kinematics(whole, data)
        mujoco.mj_comPos(whole, data)
        mujoco.mj_collision(whole, data)
        for geoms in data.contact.geom[: data.ncon]:
            bodies = [names[whole.geom_bodyid[geom]] for geom in geoms]
            legs = [b.split("_", 1)[1] for b in bodies if "_" in b]
            if all(coupled[quadruped.LEGS.index(leg)] for leg in legs):
                met.add(frozenset(bodies))
    assert met and not met & excluded
    # Those that are left to check do meet.
    assert len(met) == 4 * 3 * 3
