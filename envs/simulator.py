"""One environment's physics: MuJoCo coordinates, and the steps MJX makes of them."""

import contextlib
import dataclasses
from collections.abc import Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

import envs.collision  # noqa: F401  (replaces collision functions of MJX)
from envs._mjx import MjModel, mjx, mujoco

# MuJoCo itself calls a state bad beyond this magnitude (mjMAXVAL).
MAX_MAGNITUDE = 1e10


class Physics(eqx.Module):
    """The part of `mjx.Data` that the simulation continues from.

    All the rest is recomputed from it, so selects, batches and checkpoints of states
    stay small. The acceleration is only the solver's starting point. The readings of
    touch, force, torque and acceleration sensors depend on the control before the
    state as well, so they cannot be recomputed; models without them have `force` of
    size 0.
    """

    qpos: Float[Array, "*batch nq"]
    qvel: Float[Array, "*batch nv"]
    act: Float[Array, "*batch na"]
    ctrl: Float[Array, "*batch nu"]
    qacc_warmstart: Float[Array, "*batch nv"]
    force: Float[Array, "*batch nforce"]


@contextlib.contextmanager
def _for_mjx() -> Iterator[None]:
    """How MJX must be traced, whatever its caller has set.

    It relies on rank promotion. And its products must be of float32: a GPU's default
    rounds their factors to 10 bits (TF32), too little for constraints to hold.
    """
    with jax.numpy_rank_promotion("allow"), jax.default_matmul_precision("highest"):
        yield


@dataclasses.dataclass(frozen=True)
class Simulator:
    """A model, and what can be computed with it.

    Attributes:
        model: the host-side MuJoCo model, for names, ids and ranges.
        mjx_model: the same on the device; its numbers may be traced.
        template: `mjx.make_data(model)`.
    """

    model: MjModel
    mjx_model: mjx.Model
    template: mjx.Data

    @classmethod
    def of(cls, model: MjModel) -> "Simulator":
        """The simulator of a host-side model."""
        return cls(model, mjx.put_model(model), mjx.make_data(model))

    @property
    def force_index(self) -> np.ndarray:
        """Where in `sensordata` the entries of `Physics.force` are."""
        sensors = range(self.model.nsensor)
        at_force = int(mujoco.mjtStage.mjSTAGE_ACC)
        entries = [
            np.arange(self.model.sensor_dim[i]) + self.model.sensor_adr[i]
            for i in sensors
            if self.model.sensor_needstage[i] == at_force
        ]
        return np.concatenate([np.zeros(0, int), *entries])

    def at_rest(self) -> Physics:
        """The model's reference pose, without velocity, control and force."""
        return self.physics(jnp.asarray(self.model.qpos0, float))

    def physics(
        self,
        qpos: Float[Array, " nq"],
        qvel: Float[Array, " nv"] | None = None,
        act: Float[Array, " na"] | None = None,
    ) -> Physics:
        """Coordinates as `Physics`; None, the control and the forces are zeros."""
        model = self.model
        return Physics(
            qpos=qpos,
            qvel=jnp.zeros(model.nv) if qvel is None else qvel,
            act=jnp.zeros(model.na) if act is None else act,
            ctrl=jnp.zeros(model.nu),
            qacc_warmstart=jnp.zeros(model.nv),
            force=jnp.zeros(len(self.force_index)),
        )

    def step(self, physics: Physics, *, steps: int) -> Physics:
        """`steps` physics steps under the control that `physics` holds."""

        def one(physics: Physics, _):
            with _for_mjx():
                return self._lean(mjx.step(self.mjx_model, self._data(physics))), None

        return jax.lax.scan(one, physics, length=steps)[0]

    def sense_forces(self, physics: Physics) -> Physics:
        """`physics` with the forces of these coordinates while no actuator acts.

        That is what dm_control shows at the start of an episode. Without force sensors
        there is nothing to do.
        """
        if physics.force.size == 0:
            return physics
        option = self.mjx_model.opt
        off = option.disableflags | int(mujoco.mjtDisableBit.mjDSBL_ACTUATION)
        model = self.mjx_model.replace(opt=option.replace(disableflags=off))
        with _for_mjx():
            return self._lean(mjx.forward(model, self._data(physics)))

    def refresh(self, physics: Physics) -> mjx.Data:
        """Data whose kinematics and sensors belong to these coordinates.

        After `mjx.step` they still belong to the state before the last step. The force
        sensors are the exception: they show that step, as dm_control's do.
        """
        data = self._data(physics)
        stages = (
            mjx.kinematics,
            mjx.com_pos,
            mjx.com_vel,
            mjx.sensor_pos,
            mjx.sensor_vel,
        )
        with _for_mjx():
            for stage in stages:
                data = stage(self.mjx_model, data)
        sensors = data.sensordata.at[self.force_index].set(physics.force)
        return data.replace(sensordata=sensors)

    def gap(self, qpos: Float[Array, " nq"]) -> Float[Array, ""]:
        """The smallest distance in metres between geoms that can collide.

        Negative where they penetrate, infinite where the model has no such pair. There
        is a contact (`ncon > 0` in MuJoCo) where it is not positive.
        """
        contacts = self.contacts(qpos)
        return jnp.min(contacts.dist - contacts.includemargin, initial=jnp.inf)

    def contacts(self, qpos: Float[Array, " nq"]) -> mjx.Contact:
        """The nearest points of every pair of geoms that can collide.

        MJX lists them all, touching or not, one row a point.
        """
        data = self._data(self.physics(qpos))
        with _for_mjx():
            data = mjx.collision(self.mjx_model, mjx.kinematics(self.mjx_model, data))
        return data._impl.contact  # pyright: ignore[reportAttributeAccessIssue]

    def _data(self, physics: Physics) -> mjx.Data:
        return self.template.replace(
            qpos=physics.qpos,
            qvel=physics.qvel,
            act=physics.act,
            ctrl=physics.ctrl,
            qacc_warmstart=physics.qacc_warmstart,
        )

    def _lean(self, data: mjx.Data) -> Physics:
        return Physics(
            qpos=data.qpos,
            qvel=data.qvel,
            act=data.act,
            ctrl=data.ctrl,
            qacc_warmstart=data.qacc_warmstart,
            force=data.sensordata[self.force_index],
        )


def is_sound(physics: Physics) -> Bool[Array, ""]:
    """Whether every number is finite and within MuJoCo's own limit."""
    # A comparison with NaN is false, so one comparison finds NaN as well.
    sound = [jnp.all(jnp.abs(x) < MAX_MAGNITUDE) for x in jax.tree.leaves(physics)]
    return jnp.all(jnp.stack(sound))
