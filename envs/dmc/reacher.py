"""Planar two-link arm: bring its finger to a target."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from envs.dmc.randomize import random_joints
from envs.dmc.rewards import tolerance
from envs.mjx._mjx import MjModel, mjx
from envs.mjx.simulator import Simulator
from envs.mjx.task import Task

TARGET_DISTANCE = (0.05, 0.2)  # metres from the shoulder, nearest and farthest


@dataclasses.dataclass(frozen=True)
class Reacher(Task):
    """Reward 1 while finger and target, two balls in one plane, overlap.

    Observation (6): angles of the two joints, vector (x, y) from the finger to the
    target, velocities of the joints. The scene is the target's position (x, y): its
    direction from the shoulder and its distance in `TARGET_DISTANCE` are uniform.

    Attributes:
        target_radius: radius of the target, metres.
    """

    target_radius: float
    xml = "reacher.xml"
    obs_entries = (("position", 2), ("to_target", 2), ("velocity", 2))

    def load(self) -> MjModel:
        model = super().load()
        model.geom("target").size[0] = self.target_radius
        return model

    def scene(self, model: MjModel) -> np.ndarray:
        return model.geom("target").pos[:2].copy()

    def draw_scene(self, model: MjModel, key: Key[Array, ""]) -> Float[Array, " n"]:
        angle_key, distance_key = jax.random.split(key)
        angle = jax.random.uniform(angle_key, maxval=2 * math.pi)
        near, far = TARGET_DISTANCE
        distance = jax.random.uniform(distance_key, minval=near, maxval=far)
        return distance * jnp.stack([jnp.sin(angle), jnp.cos(angle)])

    def place(
        self, model: MjModel, mjx_model: mjx.Model, scene: Float[Array, " n"]
    ) -> mjx.Model:
        target = model.geom("target").id
        geom_pos = jnp.asarray(mjx_model.geom_pos, scene.dtype)
        return mjx_model.replace(geom_pos=geom_pos.at[target, :2].set(scene))

    def initial(
        self, simulator: Simulator, key: Key[Array, ""]
    ) -> tuple[Float[Array, " nq"], Float[Array, " nv"]]:
        qpos = random_joints(simulator.model, key)
        return qpos, jnp.zeros(simulator.model.nv, qpos.dtype)

    def observe(self, model: MjModel, data: mjx.Data) -> Float[Array, " obs"]:
        return jnp.concatenate([data.qpos, _finger_to_target(model, data), data.qvel])

    def reward(self, model: MjModel, data: mjx.Data) -> Float[Array, ""]:
        distance = jnp.linalg.norm(_finger_to_target(model, data))
        radii = model.geom("target").size[0] + model.geom("finger").size[0]
        return tolerance(distance, bounds=(0.0, float(radii)))


def _finger_to_target(model: MjModel, data: mjx.Data) -> Float[Array, "2"]:
    target, finger = (data.geom_xpos[model.geom(n).id] for n in ("target", "finger"))
    return target[:2] - finger[:2]


DEFAULT = "easy"
TASKS = {
    "easy": Reacher(target_radius=0.05),
    "hard": Reacher(target_radius=0.015),
}
