"""Planar finger that spins a body on a hinge, or turns it to a target."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from envs.dmc.randomize import first_accepted, random_joints
from envs.mjx._mjx import MjModel, mjx
from envs.mjx.simulator import Simulator
from envs.mjx.task import Task

SPIN_SPEED = 15.0  # rad/s
SPIN_DAMPING = 0.03  # N m s, of the spinner's hinge in the spin task


@dataclasses.dataclass(frozen=True)
class Finger(Task):
    """The common part of the finger tasks.

    Observation: angles of the two finger joints, position (x, z) of the spinner's
    tip relative to its hinge, velocities of the three joints, log(1 + force in N) of
    the two touch sensors.
    """

    xml = "finger.xml"
    obs_entries = (("position", 4), ("velocity", 3), ("touch", 2))
    control_timestep = 0.02
    lagging_forces = True

    def load(self) -> MjModel:
        model = super().load()
        # The finger reaches 0.371 m from its base, which is 0.4 m from the ground and
        # from the spinner's hinge. So the only possible contacts are between the
        # fingertip and the spinner's two capsules. MJX would spend most of its time on
        # the other pairs.
        for geom in ("ground", "proximal", "proximal_decoration", "spinner_decoration"):
            model.geom(geom).contype = model.geom(geom).conaffinity = 0
        return model

    def initial(
        self, simulator: Simulator, key: Key[Array, ""]
    ) -> tuple[Float[Array, " nq"], Float[Array, " nv"]]:
        qpos = first_accepted(
            lambda key: random_joints(simulator.model, key),
            lambda qpos: simulator.gap(qpos) > 0,
            key,
        )
        return qpos, jnp.zeros(simulator.model.nv, qpos.dtype)

    def observe(self, model: MjModel, data: mjx.Data) -> Float[Array, " obs"]:
        def read(*names: str) -> Array:
            address = np.concatenate([model.sensor(name).adr for name in names])
            return data.sensordata[address]

        return jnp.concatenate(
            [
                read("proximal", "distal"),
                _from_hinge(model, data, "tip"),
                read("proximal_velocity", "distal_velocity", "hinge_velocity"),
                jnp.log1p(read("touchtop", "touchbottom")),
            ]
        )


@dataclasses.dataclass(frozen=True)
class Spin(Finger):
    """Reward 1 while the body spins clockwise at `SPIN_SPEED` or more.

    Observation (9): see `Finger`.
    """

    def load(self) -> MjModel:
        model = super().load()
        model.dof_damping[model.joint("hinge").dofadr] = SPIN_DAMPING
        # Markers of the turn tasks, hidden here.
        for site in ("target", "tip"):
            model.site(site).rgba[3] = 0.0
        return model

    def reward(self, model: MjModel, data: mjx.Data) -> Float[Array, ""]:
        speed = data.sensordata[model.sensor("hinge_velocity").adr[0]]
        return (speed <= -SPIN_SPEED).astype(speed.dtype)


@dataclasses.dataclass(frozen=True)
class Turn(Finger):
    """Reward 1 while the spinner's tip is inside the target.

    Observation (12): see `Finger`; then the target's position (x, z) relative to the
    hinge, and the tip's distance to the target's surface, negative inside. The scene
    is the target's position (x, z), drawn uniformly on the circle of the tip.

    Attributes:
        target_radius: radius of the target, metres.
    """

    target_radius: float
    obs_entries = (
        *Finger.obs_entries,
        ("target_position", 2),
        ("dist_to_target", 1),
    )

    def load(self) -> MjModel:
        model = super().load()
        model.site("target").size[0] = self.target_radius
        return model

    def scene(self, model: MjModel) -> np.ndarray:
        return model.site("target").pos[::2].copy()

    def draw_scene(self, model: MjModel, key: Key[Array, ""]) -> Float[Array, " n"]:
        angle = jax.random.uniform(key, minval=-math.pi, maxval=math.pi)
        # The tip's distance from the hinge is the capsule's radius plus half length.
        radius = float(np.sum(model.geom("cap1").size))
        hinge = jnp.asarray(model.body("spinner").pos[::2], angle.dtype)
        return hinge + radius * jnp.stack([jnp.sin(angle), jnp.cos(angle)])

    def place(
        self, model: MjModel, mjx_model: mjx.Model, scene: Float[Array, " n"]
    ) -> mjx.Model:
        target = model.site("target").id
        site_pos = jnp.asarray(mjx_model.site_pos, scene.dtype)
        return mjx_model.replace(site_pos=site_pos.at[target, ::2].set(scene))

    def observe(self, model: MjModel, data: mjx.Data) -> Float[Array, " obs"]:
        return jnp.concatenate(
            [
                super().observe(model, data),
                _from_hinge(model, data, "target"),
                self._distance(model, data)[None],
            ]
        )

    def reward(self, model: MjModel, data: mjx.Data) -> Float[Array, ""]:
        distance = self._distance(model, data)
        return (distance <= 0).astype(distance.dtype)

    def _distance(self, model: MjModel, data: mjx.Data) -> Float[Array, ""]:
        tip, target = (_from_hinge(model, data, name) for name in ("tip", "target"))
        return jnp.linalg.norm(target - tip) - self.target_radius


def _from_hinge(model: MjModel, data: mjx.Data, name: str) -> Float[Array, "2"]:
    """Position (x, z) that a sensor measures, relative to the spinner's hinge."""
    place, hinge = (model.sensor(s).adr[0] for s in (name, "spinner"))
    return (
        data.sensordata[place : place + 3 : 2]
        - (data.sensordata[hinge : hinge + 3 : 2])
    )


DEFAULT = "spin"
TASKS = {
    "spin": Spin(),
    "turn_easy": Turn(target_radius=0.07),
    "turn_hard": Turn(target_radius=0.03),
}
