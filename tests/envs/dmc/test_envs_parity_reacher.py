"""Reacher against dm_control, in float64."""

import jax
import numpy as np
import parity
import pytest
from parity_checks import FILTER, check_control_step, check_resets, check_rewards
from parity_checks import float64 as float64

from envs.dmc import reacher

pytestmark = [FILTER, pytest.mark.long]

RADII = {"reacher-easy": 0.05 + 0.01, "reacher-hard": 0.015 + 0.01}


@pytest.mark.parametrize("name", RADII)
def test_control_step(name):
    check_control_step(name, (1e-12, 1e-12))


@pytest.mark.parametrize(("name", "radii"), RADII.items())
def test_rewards(name, radii):
    # The straight arm ends 0.24 m from the shoulder; the second case bends it back.
    def case(distance, reward, qpos=(0.0, 0.0)):
        finger = np.array([0.12 + 0.12 * np.cos(qpos[1]), 0.12 * np.sin(qpos[1])])
        target = finger - distance * np.array([0.6, 0.8])
        return np.array(qpos), np.zeros(2), target, reward

    cases = [case(0.0, 1.0), case(0.0, 1.0, (0.0, 2.5)), case(radii - 1e-4, 1.0)]
    check_rewards(name, [*cases, case(radii + 1e-4, 0.0), case(0.2, 0.0)])


def test_resets():
    name = "reacher-easy"
    start = check_resets(name)
    distance = np.linalg.norm(start[:, -2:], axis=1)
    assert 0.05 <= distance.min() < 0.055 and 0.195 < distance.max() <= 0.2
    # The angle's quadrants are as likely as each other.
    quadrant = np.mean(start[:, -2:] > 0, axis=0)
    assert np.all(np.abs(quadrant - 0.5) < 4 * np.sqrt(0.25 / len(start)))


def test_target_stays_for_an_episode_and_moves_with_the_next():
    env = parity.make("reacher-easy")
    state, first = jax.jit(env.reset)(jax.random.key(0))
    step = jax.jit(env.advance)
    later, _ = step(state, np.ones(2))
    np.testing.assert_array_equal(later.scene, state.scene)
    again, row = jax.jit(env.restart)(later)
    assert np.all(again.scene != state.scene)
    for at, timestep in ((state, first), (again, row)):
        finger = 0.12 * np.array(
            [[np.cos(q), np.sin(q)] for q in (at.qpos[0], at.qpos[0] + at.qpos[1])]
        ).sum(0)
        np.testing.assert_allclose(timestep.obs[2:4], at.scene - finger, atol=1e-6)


def test_target_sizes():
    easy, hard = (reacher.TASKS[task].load() for task in ("easy", "hard"))
    assert easy.geom("target").size[0] == 0.05
    assert hard.geom("target").size[0] == 0.015
