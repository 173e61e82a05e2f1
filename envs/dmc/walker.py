"""Planar walker: stand, walk, run."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from envs.dmc.randomize import random_joints
from envs.dmc.rewards import tolerance
from envs.mjx._mjx import MjModel, mjx
from envs.mjx.simulator import Simulator
from envs.mjx.task import Task

STAND_HEIGHT = 1.2  # metres, of the torso's centre


@dataclasses.dataclass(frozen=True)
class Walker(Task):
    """Stand upright, and move forward at `move_speed` m/s if that is not 0.

    Observation (24): orientations of the seven bodies as (xx, xz) pairs, height of
    the torso, velocities of the nine joints.
    """

    move_speed: float
    xml = "walker.xml"
    obs_entries = (("orientations", 14), ("height", 1), ("velocity", 9))
    control_timestep = 0.025

    def initial(
        self, simulator: Simulator, key: Key[Array, ""]
    ) -> tuple[Float[Array, " nq"], Float[Array, " nv"]]:
        qpos = random_joints(simulator.model, key)
        return qpos, jnp.zeros(simulator.model.nv, qpos.dtype)

    def observe(self, model: MjModel, data: mjx.Data) -> Float[Array, " obs"]:
        orientations = data.xmat[1:, 0, ::2].ravel()
        height = data.xpos[model.body("torso").id, 2]
        return jnp.concatenate([orientations, height[None], data.qvel])

    def reward(self, model: MjModel, data: mjx.Data) -> Float[Array, ""]:
        torso = model.body("torso").id
        standing = tolerance(
            data.xpos[torso, 2],
            bounds=(STAND_HEIGHT, float("inf")),
            margin=STAND_HEIGHT / 2,
        )
        upright = (1 + data.xmat[torso, 2, 2]) / 2
        stand_reward = (3 * standing + upright) / 4
        if self.move_speed == 0:
            return stand_reward
        velocity = model.sensor("torso_subtreelinvel")
        moving = tolerance(
            data.sensordata[velocity.adr[0]],  # along x
            bounds=(self.move_speed, float("inf")),
            margin=self.move_speed / 2,
            sigmoid="linear",
            value_at_margin=0.5,
        )
        return stand_reward * (5 * moving + 1) / 6


DEFAULT = "walk"
TASKS = {
    "stand": Walker(move_speed=0.0),
    "walk": Walker(move_speed=1.0),
    "run": Walker(move_speed=8.0),
}
