"""Cart-pole: balance and swing up, with dense or sparse reward."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from envs.dmc.rewards import tolerance
from envs.mjx._mjx import MjModel, mjx
from envs.mjx.simulator import Simulator
from envs.mjx.task import Task


@dataclasses.dataclass(frozen=True)
class Cartpole(Task):
    """Keep the pole upright over the middle of the rail.

    Observation (5): cart position, cosine and sine of the pole's angle, velocities of
    cart and pole.

    Attributes:
        swing_up: start with the pole hanging down instead of nearly upright.
        sparse: reward 1 while the pole is nearly upright near the middle, else 0.
    """

    swing_up: bool
    sparse: bool
    xml = "cartpole.xml"
    obs_entries = (("position", 3), ("velocity", 2))

    def initial(
        self, simulator: Simulator, key: Key[Array, ""]
    ) -> tuple[Float[Array, " nq"], Float[Array, " nv"]]:
        position_key, velocity_key = jax.random.split(key)
        if self.swing_up:
            noise = 0.01 * jax.random.normal(position_key, (2,))
            qpos = noise + np.array([0.0, np.pi], noise.dtype)
        else:
            unit = jax.random.uniform(position_key, (2,), minval=-1.0)
            qpos = unit * np.array([0.1, 0.034], unit.dtype)
        return qpos, 0.01 * jax.random.normal(velocity_key, (simulator.model.nv,))

    def observe(self, model: MjModel, data: mjx.Data) -> Float[Array, " obs"]:
        pole = data.xmat[model.body("pole_1").id]
        return jnp.concatenate(
            [data.qpos[:1], jnp.stack([pole[2, 2], pole[0, 2]]), data.qvel]
        )

    def reward(self, model: MjModel, data: mjx.Data) -> Float[Array, ""]:
        cart = data.qpos[0]
        cosine = data.xmat[model.body("pole_1").id, 2, 2]
        if self.sparse:
            centered = tolerance(cart, bounds=(-0.25, 0.25))
            return centered * tolerance(cosine, bounds=(0.995, 1.0))
        upright = (1 + cosine) / 2
        centered = (1 + tolerance(cart, margin=2.0)) / 2
        small_control = tolerance(
            data.ctrl[0], margin=1.0, sigmoid="quadratic", value_at_margin=0.0
        )
        small_velocity = (1 + tolerance(data.qvel[1], margin=5.0)) / 2
        return upright * (4 + small_control) / 5 * small_velocity * centered


DEFAULT = "swingup"
TASKS = {
    "balance": Cartpole(swing_up=False, sparse=False),
    "balance_sparse": Cartpole(swing_up=False, sparse=True),
    "swingup": Cartpole(swing_up=True, sparse=False),
    "swingup_sparse": Cartpole(swing_up=True, sparse=True),
}
