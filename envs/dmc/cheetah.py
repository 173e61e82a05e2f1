"""Planar cheetah: run."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from envs.dmc.randomize import random_joints
from envs.dmc.rewards import tolerance
from envs.mjx._mjx import MjModel, mjx, mujoco
from envs.mjx.assets import load_spec
from envs.mjx.simulator import Simulator
from envs.mjx.task import Task

RUN_SPEED = 10.0  # m/s, at which the reward reaches 1
SETTLING_STEPS = 200  # physics steps, 2 s


@dataclasses.dataclass(frozen=True)
class Cheetah(Task):
    """Run forward; the reward grows linearly with speed up to `RUN_SPEED`.

    Observation (17): positions of all joints but the horizontal one, velocities of
    the nine joints.
    """

    xml = "cheetah.xml"
    obs_entries = (("position", 8), ("velocity", 9))

    def load(self) -> MjModel:
        # The file sets the compiler's settotalmass, which is deprecated: MuJoCo warns
        # on the terminal and in a log file. Set the same mass after compiling instead.
        spec = load_spec(self.xml)
        total_mass, spec.compiler.settotalmass = spec.compiler.settotalmass, -1
        model = spec.compile()
        mujoco.mj_setTotalmass(model, total_mass)
        mujoco.mj_setConst(model, mujoco.MjData(model))
        return model

    def initial(
        self, simulator: Simulator, key: Key[Array, ""]
    ) -> tuple[Float[Array, " nq"], Float[Array, " nv"]]:
        model = simulator.model
        limited = model.jnt_limited.astype(bool)
        drawn = random_joints(model, key)
        start = jnp.where(limited, drawn, jnp.asarray(model.qpos0, drawn.dtype))
        # The drawn pose is in the air: let the cheetah land before the episode starts.
        settled = simulator.step(simulator.physics(start), steps=SETTLING_STEPS)
        return settled.qpos, settled.qvel

    def observe(self, model: MjModel, data: mjx.Data) -> Float[Array, " obs"]:
        return jnp.concatenate([data.qpos[1:], data.qvel])

    def reward(self, model: MjModel, data: mjx.Data) -> Float[Array, ""]:
        velocity = model.sensor("torso_subtreelinvel")
        return tolerance(
            data.sensordata[velocity.adr[0]],  # along x
            bounds=(RUN_SPEED, float("inf")),
            margin=RUN_SPEED,
            sigmoid="linear",
            value_at_margin=0.0,
        )


DEFAULT = "run"
TASKS = {"run": Cheetah()}
