"""Contacts of capsules and spheres against MuJoCo's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.mjx._mjx import mujoco
from envs.mjx.collision import closest_points
from envs.mjx.simulator import Simulator

pytestmark = pytest.mark.long


@pytest.fixture(scope="module", autouse=True)
def fresh_caches():
    # jax keeps the constants inside mjx in the precision that used them first.
    jax.clear_caches()
    yield
    jax.clear_caches()


def segments(rng, n):
    """(centre, half, centre, half) of pairs of segments, of many kinds."""
    center1, half1, center2, half2 = rng.normal(size=(4, n, 3))
    k = n // 5
    for points in (center1, half1, center2, half2):  # in one plane
        points[:k, 1] = 0
    half2[k : 2 * k] = half1[k : 2 * k] * rng.normal(size=(k, 1))  # parallel
    half1[2 * k : 3 * k] = 0  # one of them a point
    half2[3 * k : 4 * k] = half1[3 * k : 4 * k] + 1e-4 * rng.normal(size=(k, 3))
    return center1, half1, center2, half2


def smallest_distance(center1, half1, center2, half2):
    """By search: the best point of segment 2 for each point of a grid, refined."""
    low, high = np.full(len(center1), -1.0), np.full(len(center1), 1.0)
    square = np.maximum(np.sum(half2**2, axis=1), 1e-300)
    for _ in range(12):
        grid = np.linspace(low, high, 33)[..., None]
        points = center1 + grid * half1
        t2 = np.clip(np.sum((points - center2) * half2, axis=2) / square, -1, 1)
        distance = np.linalg.norm(points - center2 - t2[..., None] * half2, axis=2)
        best = grid[np.argmin(distance, axis=0), np.arange(len(low)), 0]
        width = (high - low) / 16
        low, high = np.clip(best - width, -1, 1), np.clip(best + width, -1, 1)
    return np.min(distance, axis=0)


@pytest.mark.parametrize(("x64", "error"), [(True, 1e-9), (False, 2e-6)])
def test_closest_points_are_closest(x64, error):
    pairs = segments(np.random.default_rng(0), 500)
    with jax.enable_x64(x64):
        point1, point2 = jax.jit(jax.vmap(closest_points))(
            *(jnp.asarray(x, float) for x in pairs)
        )
    distance = np.linalg.norm(np.asarray(point1 - point2, np.float64), axis=1)
    np.testing.assert_allclose(distance, smallest_distance(*pairs), atol=error)


XML = """
<mujoco>
  <worldbody>
    <body><freejoint/><geom type="{kind}" size="{size}"/></body>
    <body><freejoint/><geom type="capsule" size=".04 .2"/></body>
  </worldbody>
</mujoco>
"""


@pytest.mark.parametrize(
    ("kind", "size"), [("capsule", ".05 .3"), ("sphere", ".05 0 0")]
)
def test_contacts_are_mujocos(kind, size):
    # All overlap; the axes pass each other at 1e-1 to 1e-7 m, where the old normals
    # were off by more and more.
    model = mujoco.MjModel.from_xml_string(XML.format(kind=kind, size=size))
    data = mujoco.MjData(model)
    rng = np.random.default_rng(0)
    n = 200
    qpos = rng.normal(size=(n, 14))
    qpos[:, :3] *= 0.08 * np.logspace(0, -6, n)[:, None]
    qpos[:, 7:10] = 0
    for quaternion in (qpos[:, 3:7], qpos[:, 10:14]):
        quaternion /= np.linalg.norm(quaternion, axis=1, keepdims=True)
    with jax.enable_x64(True):
        simulator = Simulator.of(model)
        ours = jax.jit(jax.vmap(simulator.contacts))(qpos)
    overlapping = 0
    for i in range(n):
        data.qpos[:] = qpos[i]
        mujoco.mj_forward(model, data)
        for contact in data.contact:
            overlapping += 1
            assert ours.dist[i, 0] == pytest.approx(contact.dist, abs=1e-12)
            np.testing.assert_allclose(ours.pos[i, 0], contact.pos, atol=1e-9)
            normal = np.ravel(ours.frame[i, 0])[:3]
            np.testing.assert_allclose(normal, contact.frame[:3], atol=1e-7)
    assert overlapping > n // 2


def test_gap():
    model = mujoco.MjModel.from_xml_string(XML.format(kind="sphere", size=".05 0 0"))
    simulator = Simulator.of(model)
    gap = jax.jit(simulator.gap)
    for distance in (0.1, 0.01, -0.01):
        qpos = jnp.zeros(14).at[jnp.array([3, 10])].set(1.0)
        qpos = qpos.at[0].set(0.09 + distance)
        assert float(gap(qpos)) == pytest.approx(distance, abs=1e-6)
    nothing = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body><joint/><geom size='.1'/></body></worldbody></mujoco>"
    )
    assert Simulator.of(nothing).gap(jnp.zeros(1)) == jnp.inf
