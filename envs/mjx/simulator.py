"""One environment's physics: MuJoCo coordinates, and the steps MJX makes of them."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

import envs.mjx.collision  # noqa: F401  (replaces collision functions of MJX)
from envs.mjx._mjx import MjModel, mjx, mujoco
from envs.mjx.stages import STAGES, Pipeline, traced

# MuJoCo itself calls a state bad beyond this magnitude (mjMAXVAL).
MAX_MAGNITUDE = 1e10


class Physics(eqx.Module):
    """The part of `mjx.Data` that the simulation continues from.

    All the rest is recomputed from it, so selects, batches and checkpoints of states
    stay small. The acceleration is only the solver's starting point. Where the readings
    of touch, force, torque and acceleration sensors are those of the last physics step
    (`Simulator.lagging`), they are kept in `force`; elsewhere it has size 0.
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
        pipeline: the stages of the forward dynamics.
        lagging: touch, force, torque and acceleration sensors show the last physics
            step, as in dm_control, not the present state.
    """

    model: MjModel
    mjx_model: mjx.Model
    template: mjx.Data
    pipeline: Pipeline
    lagging: bool

    @classmethod
    def of(cls, model: MjModel, *, lagging: bool = False) -> "Simulator":
        """The simulator of a host-side model.

        Raises:
            ValueError: `lagging`, but `mjx.step` does not compute these sensors for
                this model: it has no constraint, or is integrated by Runge-Kutta.
        """
        mjx_model, template = mjx.put_model(model), mjx.make_data(model)
        if not model.nmat:  # rays look up a colour, also where there is none
            mjx_model = mjx_model.replace(mat_rgba=jnp.ones((1, 4)))
        with _for_mjx():
            pipeline = Pipeline.of(mjx_model, template, forces=not lagging)
        simulator = cls(model, mjx_model, template, pipeline, lagging)
        if len(simulator.force_index):
            runge_kutta = model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4
            if runge_kutta or not template._impl.efc_J.size:  # pyright: ignore
                raise ValueError(
                    "MJX has no readings of force sensors from its last step where the "
                    "integrator is RK4 or the model has no constraint: set "
                    "lagging_forces=False in the task"
                )
        return simulator

    @property
    def force_index(self) -> np.ndarray:
        """Where in `sensordata` the entries of `Physics.force` are."""
        if not self.lagging:
            return np.zeros(0, int)
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

    def measure[T: PyTree](
        self,
        function: Callable[[mjx.Data], T],
        physics: Physics,
        *,
        time: Float[Array, ""],
    ) -> T:
        """`function(data)`, where `data` is of this state in all that is read from it.

        Just the stages that compute what it reads are run. All fields belong to these
        coordinates under the control they are held with, as after `mj_forward`; with
        `lagging`, the force sensors show the step that led there.

        Args:
            function: what to compute; it is traced.
            physics: the state.
            time: seconds since the episode began.

        Raises:
            ValueError: the function reads a field that no stage computes.
        """
        data = self._data(physics, time)
        replay, fields = traced(function, data)
        return replay(self._run(self.pipeline.stages(fields), data, physics))

    def check_reads(self, functions: dict[str, Callable[[mjx.Data], Any]]) -> None:
        """Raises ValueError if one of the functions reads what cannot be computed."""
        for what, function in functions.items():
            try:
                self.pipeline.stages(traced(function, self.template)[1])
            except ValueError as error:
                raise ValueError(f"{what} does not fit: {error}") from error

    def data(self, physics: Physics, *, time: Float[Array, ""]) -> mjx.Data:
        """All that can be computed of a state; using a field that cannot raises."""
        data = self._data(physics, time)
        return self.pipeline.everything(lambda stages: self._run(stages, data, physics))

    def _run(self, stages: list[str], data: mjx.Data, physics: Physics) -> mjx.Data:
        with _for_mjx():
            for name in stages:
                data = STAGES[name].run(self.mjx_model, data)
        # Unlike MuJoCo, MJX makes the quaternions in it unit ones.
        data = data.replace(qpos=physics.qpos)
        if not physics.force.size:
            return data
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

    def _data(self, physics: Physics, time: Float[Array, ""] | None = None) -> mjx.Data:
        return self.template.replace(
            time=self.template.time if time is None else time,
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
