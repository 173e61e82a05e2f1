"""Drawing start positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.dmc.randomize import first_accepted, random_joints
from envs.mjx._mjx import mujoco
from envs.mjx.assets import load_model


def compiled(joints):
    bodies = "".join(
        f"<body><{joint}/><geom size='.1'/></body>"
        if joint == "freejoint"
        else f"<body><joint {joint}/><geom size='.1'/></body>"
        for joint in joints
    )
    xml = f"<mujoco><worldbody>{bodies}</worldbody></mujoco>"
    return mujoco.MjModel.from_xml_string(xml)


def draws(model, key, n):
    keys = jax.random.split(key, n)
    return np.asarray(jax.vmap(lambda key: random_joints(model, key))(keys))


def test_random_joints_within_ranges(getkey):
    model = load_model("walker.xml")
    limited = model.jnt_limited.astype(bool)
    qpos, bounds = draws(model, getkey(), 200), model.jnt_range[limited]
    bounds = bounds.astype(np.float32)
    assert np.all(
        (qpos[:, limited] >= bounds[:, 0]) & (qpos[:, limited] <= bounds[:, 1])
    )
    assert np.all(qpos[:, :2] == 0) and np.all(np.abs(qpos[:, 2]) <= np.pi)


def test_random_rotations(getkey):
    model = compiled(["type='slide' limited='true' range='1 2'", "type='ball'"])
    qpos = draws(model, getkey(), 2000)
    assert np.all((qpos[:, 0] >= 1) & (qpos[:, 0] <= 2))
    quaternion = qpos[:, 1:]
    np.testing.assert_allclose(np.linalg.norm(quaternion, axis=1), 1, rtol=1e-6)
    # Uniform over the sphere in four dimensions.
    np.testing.assert_allclose(np.mean(quaternion, axis=0), 0, atol=0.05)
    np.testing.assert_allclose(np.cov(quaternion.T), np.eye(4) / 4, atol=0.03)


def test_a_free_joint_keeps_its_place_and_turns_as_in_dm_control(getkey):
    model = compiled(["freejoint", "type='hinge'"])
    model.qpos0[:3] = (1.0, 2.0, 3.0)
    qpos = draws(model, getkey(), 2000)
    assert np.all(qpos[:, :3] == (1.0, 2.0, 3.0))
    quaternion = qpos[:, 3:7]
    np.testing.assert_allclose(np.linalg.norm(quaternion, axis=1), 1, rtol=1e-6)
    assert np.all(quaternion >= 0)  # dm_control draws positive entries
    theirs = np.random.default_rng(0).uniform(size=(2000, 4))
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    np.testing.assert_allclose(quaternion.mean(0), theirs.mean(0), atol=0.02)
    assert np.ptp(qpos[:, 7]) > 6.2


def test_random_joints_refuses_limited_ball_joints(getkey):
    model = compiled(["type='ball' limited='true' range='0 1'"])
    with pytest.raises(ValueError, match="limited ball joint"):
        random_joints(model, getkey())


def test_first_accepted(getkey):
    def one(key):
        return first_accepted(jax.random.uniform, lambda x: x > 0.8, key)

    drawn = jax.vmap(one)(jax.random.split(getkey(), 1000))
    assert np.all(drawn > 0.8)
    assert float(jnp.mean(drawn)) == pytest.approx(0.9, abs=0.01)


def test_first_accepted_stops(getkey):
    def one(key):
        return first_accepted(jax.random.uniform, lambda x: x > 2, key, attempts=5)

    assert one(getkey()) < 1
    with pytest.raises(ValueError, match="attempts=0"):
        first_accepted(jax.random.uniform, lambda x: x > 2, getkey(), attempts=0)
