"""Planar one-legged hopper: stand, hop."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from envs.dmc.randomize import random_joints
from envs.dmc.rewards import tolerance
from envs.mjx._mjx import MjModel, mjx
from envs.mjx.simulator import Simulator
from envs.mjx.task import Task

STAND_HEIGHT = 0.6  # metres, of the torso above the foot
HOP_SPEED = 2.0  # m/s, at which the reward for speed reaches 1


@dataclasses.dataclass(frozen=True)
class Hopper(Task):
    """Stand upright with little control, or hop forward.

    Observation (15): positions of all joints but the horizontal one, velocities of
    the seven joints, log(1 + force in N) at toe and heel.

    Attributes:
        hop: reward forward speed instead of small controls.
    """

    hop: bool
    xml = "hopper.xml"
    obs_entries = (("position", 6), ("velocity", 7), ("touch", 2))
    control_timestep = 0.02
    lagging_forces = True

    def initial(
        self, simulator: Simulator, key: Key[Array, ""]
    ) -> tuple[Float[Array, " nq"], Float[Array, " nv"]]:
        qpos = random_joints(simulator.model, key)
        return qpos, jnp.zeros(simulator.model.nv, qpos.dtype)

    def observe(self, model: MjModel, data: mjx.Data) -> Float[Array, " obs"]:
        touch = np.concatenate(
            [model.sensor(f"touch_{end}").adr for end in ("toe", "heel")]
        )
        return jnp.concatenate(
            [data.qpos[1:], data.qvel, jnp.log1p(data.sensordata[touch])]
        )

    def reward(self, model: MjModel, data: mjx.Data) -> Float[Array, ""]:
        torso, foot = (data.xipos[model.body(name).id] for name in ("torso", "foot"))
        standing = tolerance(torso[2] - foot[2], bounds=(STAND_HEIGHT, 2.0))
        if not self.hop:
            small_control = tolerance(
                data.ctrl, margin=1.0, sigmoid="quadratic", value_at_margin=0.0
            )
            return standing * (jnp.mean(small_control) + 4) / 5
        velocity = model.sensor("torso_subtreelinvel")
        hopping = tolerance(
            data.sensordata[velocity.adr[0]],  # along x
            bounds=(HOP_SPEED, float("inf")),
            margin=HOP_SPEED / 2,
            sigmoid="linear",
            value_at_margin=0.5,
        )
        return standing * hopping


DEFAULT = "hop"
TASKS = {
    "stand": Hopper(hop=False),
    "hop": Hopper(hop=True),
}
