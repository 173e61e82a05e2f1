"""Pendulum: swing up with a torque too weak to lift the mass directly."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from envs.dmc.rewards import tolerance
from envs.mjx._mjx import MjModel, mjx
from envs.mjx.simulator import Simulator
from envs.mjx.task import Task

UPRIGHT_ANGLE = math.radians(8.0)


@dataclasses.dataclass(frozen=True)
class Pendulum(Task):
    """Reward 1 while the pole is within 8 degrees of upright.

    Observation (3): cosine and sine of the pole's angle, its angular velocity.
    """

    xml = "pendulum.xml"
    obs_entries = (("orientation", 2), ("velocity", 1))

    def initial(
        self, simulator: Simulator, key: Key[Array, ""]
    ) -> tuple[Float[Array, " nq"], Float[Array, " nv"]]:
        qpos = jax.random.uniform(key, (1,), minval=-math.pi, maxval=math.pi)
        return qpos, jnp.zeros(simulator.model.nv, qpos.dtype)

    def observe(self, model: MjModel, data: mjx.Data) -> Float[Array, " obs"]:
        pole = data.xmat[model.body("pole").id]
        return jnp.concatenate([jnp.stack([pole[2, 2], pole[0, 2]]), data.qvel])

    def reward(self, model: MjModel, data: mjx.Data) -> Float[Array, ""]:
        vertical = data.xmat[model.body("pole").id, 2, 2]
        return tolerance(vertical, bounds=(math.cos(UPRIGHT_ANGLE), 1.0))


DEFAULT = "swingup"
TASKS = {"swingup": Pendulum()}
