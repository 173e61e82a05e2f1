"""Acrobot: swing a two-link arm up by its elbow alone."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from envs.dmc.rewards import tolerance
from envs.mjx._mjx import MjModel, mjx
from envs.mjx.simulator import Simulator
from envs.mjx.task import Task


@dataclasses.dataclass(frozen=True)
class Acrobot(Task):
    """Bring the tip of the lower arm to the target above the shoulder.

    Observation (6): horizontal components of the two arms' axes, then the vertical
    ones, velocities of shoulder and elbow.

    Attributes:
        sparse: reward 1 while the tip is inside the target, else 0.
    """

    sparse: bool
    xml = "acrobot.xml"
    obs_entries = (("orientations", 4), ("velocity", 2))

    def initial(
        self, simulator: Simulator, key: Key[Array, ""]
    ) -> tuple[Float[Array, " nq"], Float[Array, " nv"]]:
        qpos = jax.random.uniform(key, (2,), minval=-math.pi, maxval=math.pi)
        return qpos, jnp.zeros(simulator.model.nv, qpos.dtype)

    def observe(self, model: MjModel, data: mjx.Data) -> Float[Array, " obs"]:
        upper, lower = (data.xmat[model.body(f"{arm}_arm").id] for arm in _ARMS)
        horizontal = jnp.stack([upper[0, 2], lower[0, 2]])
        vertical = jnp.stack([upper[2, 2], lower[2, 2]])
        return jnp.concatenate([horizontal, vertical, data.qvel])

    def reward(self, model: MjModel, data: mjx.Data) -> Float[Array, ""]:
        target, tip = model.site("target"), model.site("tip")
        distance = jnp.linalg.norm(data.site_xpos[target.id] - data.site_xpos[tip.id])
        return tolerance(
            distance,
            bounds=(0.0, float(target.size[0])),
            margin=0.0 if self.sparse else 1.0,
        )


_ARMS = ("upper", "lower")

DEFAULT = "swingup"
TASKS = {
    "swingup": Acrobot(sparse=False),
    "swingup_sparse": Acrobot(sparse=True),
}
