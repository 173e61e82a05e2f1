"""Four-legged robot: walk, run."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

import envs.mjx.collision_plane  # noqa: F401  (replaces a collision function of MJX)
from envs.dmc.rewards import tolerance
from envs.mjx._mjx import MjModel, mjx, mujoco
from envs.mjx.assets import load_spec
from envs.mjx.simulator import Simulator
from envs.mjx.task import EPISODE_STEPS, Task

# Geoms of the model file that only dm_control's fetch and escape tasks use.
OTHER_GEOMS = ("wall_px", "wall_py", "wall_nx", "wall_ny", "terrain")

# Legs in order around the torso, and their bodies from the torso outwards.
LEGS = ("front_left", "front_right", "back_right", "back_left")
SEGMENTS = ("hip", "knee", "ankle", "toe")

# Contact slots, which MJX fills with the deepest contacts. No more than 10 were ever
# seen at once.
MAX_CONTACTS = 16

CONTROL_TIMESTEP = 0.02  # seconds
START_STEP = 0.01  # metres; step in which a start pose is raised off the floor


@dataclasses.dataclass(frozen=True)
class Quadruped(Task):
    """Move forward at `speed` m/s or more, the torso upright.

    Observation (78): angles and velocities of the 16 hinges, activations of the 12
    actuators, velocity of the torso in its own frame (3), its uprightness, readings of
    accelerometer (3) and gyroscope (3), arcsinh of the forces in N (12) and torques in
    N m (12) between the toes and their legs.

    Attributes:
        speed: forward velocity of the torso, m/s, at which its reward reaches 1.
    """

    speed: float
    xml = "quadruped.xml"
    obs_entries = (
        ("egocentric_state", 44),
        ("torso_velocity", 3),
        ("torso_upright", 1),
        ("imu", 6),
        ("force_torque", 24),
    )
    control_timestep = CONTROL_TIMESTEP
    lagging_forces = True
    camera = 2  # as in other pixel benchmarks

    def load(self) -> MjModel:
        spec = load_spec(self.xml)
        for name in OTHER_GEOMS:
            spec.delete(spec.geom(name))
        spec.delete(spec.body("ball"))
        spec.delete(spec.site("target"))
        for sensor in list(spec.sensors):
            if sensor.type == mujoco.mjtSensor.mjSENS_RANGEFINDER:
                spec.delete(sensor)
        # A floor as large as the robot can walk; this matters for images only.
        half = self.speed * CONTROL_TIMESTEP * EPISODE_STEPS
        spec.geom("floor").size[:2] = half
        for one, other in _never_touching():
            spec.add_exclude(bodyname1=one, bodyname2=other)
        spec.add_numeric(name="max_contact_points", data=[MAX_CONTACTS], size=1)
        return spec.compile()

    def initial(
        self, simulator: Simulator, key: Key[Array, ""]
    ) -> tuple[Float[Array, " nq"], Float[Array, " nv"]]:
        vector = jax.random.normal(key, (4,))
        start = _raised(simulator, vector / jnp.linalg.norm(vector))
        return start, jnp.zeros(simulator.model.nv, start.dtype)

    def observe(self, model: MjModel, data: mjx.Data) -> Float[Array, " obs"]:
        (hinges,) = np.nonzero(model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE)
        torso = data.xmat[model.body("torso").id]
        forces = _read(model, data, "force", "torque")
        return jnp.concatenate(
            [
                data.qpos[model.jnt_qposadr[hinges]],
                data.qvel[model.jnt_dofadr[hinges]],
                data.act,
                _read(model, data, "velocimeter"),
                torso[2, 2:],
                _read(model, data, "accelerometer", "gyro"),
                jnp.arcsinh(forces),
            ]
        )

    def reward(self, model: MjModel, data: mjx.Data) -> Float[Array, ""]:
        forward = _read(model, data, "velocimeter")[0]
        moving = tolerance(
            forward,
            bounds=(self.speed, float("inf")),
            margin=self.speed,
            sigmoid="linear",
            value_at_margin=0.5,
        )
        upright = (1 + data.xmat[model.body("torso").id, 2, 2]) / 2
        return upright * moving


def _never_touching() -> list[tuple[str, str]]:
    """Pairs of bodies that cannot touch, to be excluded from collision detection.

    What remains is the floor, and the segments beyond the hip of two neighbouring legs.
    Those segments stay 12 cm apart while all joints are within their limits, and touch
    if two legs turn 5 degrees beyond them towards each other. Limits are soft: a hard
    landing takes a single leg up to 11 degrees beyond. All other pairs stay 4 cm apart
    even if every joint is 12 degrees beyond its limit.

    In 4.4 million physics steps of MuJoCo, under random and bang-bang controls and up
    to 4 times the gravity, no two parts of the robot touched.
    """
    pairs = [("torso", f"{segment}_{leg}") for leg in LEGS for segment in SEGMENTS[1:]]
    for leg in LEGS:
        pairs += [
            (f"{one}_{leg}", f"{other}_{leg}")
            for one, other in itertools.combinations(SEGMENTS, 2)
        ]
    for one, other in itertools.combinations(range(len(LEGS)), 2):
        neighbours = (other - one) % 2 == 1
        pairs += [
            (f"{a}_{LEGS[one]}", f"{b}_{LEGS[other]}")
            for a, b in itertools.product(SEGMENTS, SEGMENTS)
            if not neighbours or "hip" in (a, b)
        ]
    return pairs


def _raised(simulator: Simulator, rotation: Float[Array, "4"]) -> Float[Array, " nq"]:
    """The reference pose, turned and raised until nothing touches the floor.

    dm_control raises it from height 0 in steps of `START_STEP` until there is no
    contact. In that pose only the floor can be touched, and the gap to the floor grows
    by as much as the robot is raised, so the gap at height 0 gives the number of steps.
    """
    qpos = jnp.asarray(simulator.model.qpos0, rotation.dtype)
    qpos = qpos.at[:7].set(jnp.concatenate([jnp.zeros(3, rotation.dtype), rotation]))
    steps = jnp.floor(-simulator.gap(qpos) / START_STEP) + 1
    return qpos.at[2].set(steps * START_STEP)


def _read(model: MjModel, data: mjx.Data, *kinds: str) -> Float[Array, " n"]:
    """Readings of all sensors of these kinds, in the model's order."""
    types = [int(getattr(mujoco.mjtSensor, f"mjSENS_{kind.upper()}")) for kind in kinds]
    (sensors,) = np.nonzero(np.isin(model.sensor_type, types))
    entries = [np.arange(model.sensor_dim[i]) + model.sensor_adr[i] for i in sensors]
    return data.sensordata[np.concatenate(entries)]


DEFAULT = "walk"
TASKS = {
    "walk": Quadruped(speed=0.5),
    "run": Quadruped(speed=5.0),
}
