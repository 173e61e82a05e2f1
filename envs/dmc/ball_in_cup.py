"""Ball on a string below a cup: swing it up and catch it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from envs.dmc.randomize import first_accepted
from envs.mjx._mjx import MjModel, mjx
from envs.mjx.simulator import Simulator
from envs.mjx.task import Task

# Ranges of the ball's joints (x, z), metres from its position in the model file.
START_LOW = (-0.2, 0.2)
START_HIGH = (0.2, 0.5)


@dataclasses.dataclass(frozen=True)
class BallInCup(Task):
    """Reward 1 while the whole ball is inside the cup.

    Observation (8): positions (x, z) of cup and ball relative to those in the model
    file, then their velocities.
    """

    xml = "ball_in_cup.xml"
    obs_entries = (("position", 4), ("velocity", 4))
    control_timestep = 0.02

    def initial(
        self, simulator: Simulator, key: Key[Array, ""]
    ) -> tuple[Float[Array, " nq"], Float[Array, " nv"]]:
        model = simulator.model
        joints = np.concatenate([model.joint(f"ball_{a}").qposadr for a in "xz"])

        def draw(key: Key[Array, ""]) -> Float[Array, " nq"]:
            low, high = (jnp.asarray(bound, float) for bound in (START_LOW, START_HIGH))
            place = jax.random.uniform(key, low.shape, minval=low, maxval=high)
            return jnp.asarray(model.qpos0, float).at[joints].set(place)

        # The ball may be inside the cup, but must not touch it.
        qpos = first_accepted(draw, lambda qpos: simulator.gap(qpos) > 0, key)
        return qpos, jnp.zeros(model.nv, qpos.dtype)

    def observe(self, model: MjModel, data: mjx.Data) -> Float[Array, " obs"]:
        return jnp.concatenate([data.qpos, data.qvel])

    def reward(self, model: MjModel, data: mjx.Data) -> Float[Array, ""]:
        target = model.site("target")
        ball = data.xpos[model.body("ball").id]
        offset = jnp.abs(data.site_xpos[target.id] - ball)[::2]  # along x and z
        room = target.size[::2] - model.geom("ball").size[0]
        inside = jnp.all(offset < jnp.asarray(room, offset.dtype))
        return inside.astype(offset.dtype)


DEFAULT = "catch"
TASKS = {"catch": BallInCup()}
