"""MJX simulation of one model: physics steps and derived quantities."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

import envs.mjx.array_form  # replaces small functions of MJX
import envs.mjx.collision  # replaces collision functions of MJX
import envs.mjx.gpu_form  # noqa: F401  (replaces functions of MJX on a GPU)
from envs.mjx._mjx import MjModel, mjx, mujoco
from envs.mjx.stages import STAGES, Pipeline, traced

# MuJoCo itself treats a state beyond this magnitude (mjMAXVAL) as diverged.
MAX_MAGNITUDE = 1e10


class Physics(eqx.Module):
    """The part of `mjx.Data` that the simulation continues from.

    Everything else is recomputed from it, which keeps states small. `qacc_warmstart` is
    the solver's initial guess. With `Simulator.lagging`, `force` holds the readings of
    touch, force, torque and acceleration sensors of the last physics step; otherwise it
    has size 0.
    """

    qpos: Float[Array, "*batch nq"]
    qvel: Float[Array, "*batch nv"]
    act: Float[Array, "*batch na"]
    ctrl: Float[Array, "*batch nu"]
    qacc_warmstart: Float[Array, "*batch nv"]
    force: Float[Array, "*batch nforce"]


@contextlib.contextmanager
def _for_mjx() -> Iterator[None]:
    """The JAX settings that MJX needs, independent of the caller's.

    MJX relies on rank promotion, and on float32 matrix products: TF32, a GPU's default,
    has 10 bits, too few for the constraint solver.
    """
    with jax.numpy_rank_promotion("allow"), jax.default_matmul_precision("highest"):
        yield


@dataclasses.dataclass(frozen=True)
class Simulator:
    """A model on host and device, with its physics steps and derived quantities.

    Attributes:
        model: the host-side MuJoCo model, for names, ids and ranges.
        mjx_model: the model on the device; its arrays may be traced.
        template: `mjx.make_data(model)`.
        pipeline: the stages of the forward dynamics.
        lagging: touch, force, torque and acceleration sensors show the last physics
            step, as in dm_control, not the current state.
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
            ValueError: `lagging` is set, but `mjx.step` does not compute these sensors
                for this model (no constraint, or the RK4 integrator).
        """
        mjx_model, template = mjx.put_model(model), mjx.make_data(model)
        if (
            not model.nmat
        ):  # MJX's ray casting reads a material even if the model has none
            mjx_model = mjx_model.replace(mat_rgba=jnp.ones((1, 4)))
        with _for_mjx():
            pipeline = Pipeline.of(mjx_model, template, forces=not lagging)
        simulator = cls(model, mjx_model, template, pipeline, lagging)
        if len(simulator.force_index):
            runge_kutta = model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4
            if runge_kutta or not template._impl.efc_J.size:  # pyright: ignore
                raise ValueError(
                    "lagging_forces=True: mjx.step does not compute force sensors with "
                    "the RK4 integrator or without constraints: set "
                    "lagging_forces=False in the task"
                )
        return simulator

    @property
    def force_index(self) -> np.ndarray:
        """Indices of the entries of `Physics.force` in `sensordata`."""
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
        """The model's reference pose `qpos0`, with zero velocity, control and force."""
        return self.physics(jnp.asarray(self.model.qpos0, float))

    def physics(
        self,
        qpos: Float[Array, " nq"],
        qvel: Float[Array, " nv"] | None = None,
        act: Float[Array, " na"] | None = None,
    ) -> Physics:
        """`Physics` with these coordinates; zeros for None, controls and forces."""
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
        """`steps` physics steps with the control in `physics`."""

        def one(physics: Physics, _):
            with _for_mjx():
                return self._lean(mjx.step(self.mjx_model, self._data(physics))), None

        return jax.lax.scan(one, physics, length=steps)[0]

    def sense_forces(self, physics: Physics) -> Physics:
        """`physics` with sensor readings computed with actuation disabled.

        dm_control shows these at the start of an episode. Without force sensors the
        result is `physics`.
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
        """`function(data)` for the `mjx.Data` of a state.

        Only the stages that compute the fields that it reads are run. Values are those
        of `mj_forward` with the control in `physics`; with `lagging`, the force sensors
        show the last physics step.

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
        """Raise ValueError if a function reads a field that MJX does not compute."""
        for what, function in functions.items():
            try:
                self.pipeline.stages(traced(function, self.template)[1])
            except ValueError as error:
                raise ValueError(f"{what} does not fit: {error}") from error

    def data(self, physics: Physics, *, time: Float[Array, ""]) -> mjx.Data:
        """All fields of a state; using one that MJX does not compute raises."""
        data = self._data(physics, time)
        return self.pipeline.everything(lambda stages: self._run(stages, data, physics))

    def _run(self, stages: list[str], data: mjx.Data, physics: Physics) -> mjx.Data:
        with _for_mjx():
            for name in stages:
                data = STAGES[name].run(self.mjx_model, data)
        # Unlike MuJoCo, MJX normalizes the quaternions in qpos.
        data = data.replace(qpos=physics.qpos)
        if not physics.force.size:
            return data
        sensors = data.sensordata.at[self.force_index].set(physics.force)
        return data.replace(sensordata=sensors)

    def gap(self, qpos: Float[Array, " nq"]) -> Float[Array, ""]:
        """The smallest distance in metres between geoms that can collide.

        Negative for penetration, infinite if the model has no such pair. There is a
        contact (`ncon > 0` in MuJoCo) if it is not positive.
        """
        contacts = self.contacts(qpos)
        return jnp.min(contacts.dist - contacts.includemargin, initial=jnp.inf)

    def contacts(self, qpos: Float[Array, " nq"]) -> mjx.Contact:
        """The closest points of every pair of geoms that can collide.

        MJX lists all pairs, touching or not, one contact point per row.
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
    """Whether all values are finite and within MuJoCo's limit `MAX_MAGNITUDE`."""
    # Comparisons with NaN are false, so this finds NaN too.
    sound = [jnp.all(jnp.abs(x) < MAX_MAGNITUDE) for x in jax.tree.leaves(physics)]
    return jnp.all(jnp.stack(sound))
