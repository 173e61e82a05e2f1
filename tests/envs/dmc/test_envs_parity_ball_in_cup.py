"""Ball in cup against dm_control, in float64."""

import numpy as np
import parity
import pytest
from parity_checks import FILTER, check_control_step, check_resets, check_rewards
from parity_checks import float64 as float64

from envs.mjx._mjx import mujoco

pytestmark = FILTER

NAME = "ball_in_cup-catch"


@pytest.mark.slow
def test_control_step():
    check_control_step(NAME, (1e-12, 1e-6))


def test_rewards():
    # The target is a box, its half sides 0.05 m, around (0, 0.55); the ball, 0.025 m,
    # is at (0, 0.2) where its joints are 0.
    def case(x, z, reward, cup=(0.0, 0.0)):
        qpos = np.array([*cup, cup[0] + x, cup[1] + 0.35 + z])
        return qpos, np.zeros(4), np.zeros(0), reward

    check_rewards(
        NAME,
        [
            case(0.0, 0.0, 1.0),
            case(0.0249, 0.0249, 1.0),
            case(-0.0249, 0.0, 1.0, cup=(0.1, -0.05)),
            case(0.0251, 0.0, 0.0),
            case(0.0, 0.0251, 0.0),
            case(0.0, -0.3, 0.0),
        ],
    )


def test_resets():
    start = check_resets(NAME)
    model = parity.make(NAME).model
    data = mujoco.MjData(model)
    inside = 0
    for row in start:
        data.qpos[:] = row[:4]
        mujoco.mj_forward(model, data)
        assert data.ncon == 0
        inside += abs(row[2]) < 0.05 and 0.3 < row[3] < 0.4
    # Some starts are in the cup, as they are in dm_control.
    assert inside > 0
