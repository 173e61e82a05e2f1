"""States of a task simulated by MJX: made from coordinates, changed and read."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Num, PyTree

from envs.base import State
from envs.mjx._mjx import MjModel, mjx, mujoco
from envs.mjx.features import check_features
from envs.mjx.parameters import Parametrization, PhysicsParameters
from envs.mjx.simulator import Physics, Simulator
from envs.mjx.task import Task, check_controls


@contextlib.contextmanager
def _mjx_errors(label: str) -> Iterator[None]:
    """Turns any error that MJX raises about a model into a ValueError."""
    try:
        yield
    except Exception as error:  # MJX has TypeError, IndexError and others
        said = " ".join(str(error).split())
        if not isinstance(error, NotImplementedError | ValueError):
            said = f"{type(error).__name__}: {said}"
        raise ValueError(
            f"{label}: MJX cannot simulate this model: {said[:300]}"
        ) from error


class MjxState(State):
    """State of one `MjxEnv`.

    Attributes:
        physics: MuJoCo coordinates, always finite.
        scene: what the episode drew besides coordinates (see `Task`).
        parameters: gravity, friction, mass and gain, the same in all episodes.
    """

    physics: Physics
    scene: Float[Array, "*batch nscene"]
    parameters: PhysicsParameters
    key: Key[Array, "*batch"]
    step_count: Int[Array, "*batch"]
    needs_reset: Bool[Array, "*batch"]
    corrupt_count: Int[Array, "*batch"]

    @property
    def qpos(self) -> Array:
        """Generalized positions."""
        return self.physics.qpos

    @property
    def qvel(self) -> Array:
        """Generalized velocities."""
        return self.physics.qvel

    @property
    def gravity(self) -> Array:
        """Magnitude of gravity, m/s²."""
        return self.parameters.gravity


class MjxStates:
    """The states of one task, without episodes: `envs.mjx.env.MjxEnv` adds those.

    Attributes:
        task: the task.
        model: the host-side MuJoCo model.
        n_substeps: physics steps per control step.
    """

    def __init__(self, task: Task):
        """Loads the task's model.

        Raises:
            ValueError: a control of the model is unbounded, or MJX cannot simulate the
                model.
        """
        model = task.load()
        check_controls(task.xml, model)
        if task.solver is not None:
            model.opt.iterations, model.opt.ls_iterations = task.solver
        # MJX does not compute energies and refuses models that ask for them.
        model.opt.enableflags &= ~int(mujoco.mjtEnableBit.mjENBL_ENERGY)

        control_timestep = task.control_timestep or model.opt.timestep
        self.task = task
        self.model = model
        self.n_substeps = round(control_timestep / model.opt.timestep)
        check_features(model, task.xml)
        with _mjx_errors(task.xml):
            self._simulator = Simulator.of(model, lagging=task.lagging_forces)
            self._parametrization = Parametrization.of(model)
        self._rest = self._simulator.at_rest()
        # Compiled once: `from_physics` is also called outside of `jax.jit`.
        self._sense_forces = jax.jit(
            lambda physics, parameters, scene: self._simulator_with(
                parameters, scene
            ).sense_forces(physics)
        )
        self._all_data = jax.jit(
            lambda state: self._simulator_of(state).data(
                state.physics, time=self._time(state.step_count)
            )
        )

    def from_physics(
        self,
        qpos: Num[Array | np.ndarray, " nq"],
        qvel: Num[Array | np.ndarray, " nv"],
        act: Num[Array | np.ndarray, " na"] | None = None,
        *,
        scene: Num[Array | np.ndarray, " nscene"] | None = None,
        force: Num[Array | np.ndarray, " nforce"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> MjxState:
        """A state at the start of an episode, from MuJoCo coordinates.

        Args:
            qpos: generalized positions.
            qvel: generalized velocities.
            act: actuator activations; None means zeros.
            scene: what an episode draws besides coordinates (see `Task`), such as the
                position of a target; None means that of the model's file.
            force: readings of the force sensors; None means those without actuation.
            key: PRNG key of the next episode; None means key 0.

        Raises:
            ValueError: an argument's shape is not the model's.
        """
        default = self.task.scene(self.model)
        scene = self._vector("scene", default if scene is None else scene, default.size)
        act = self._rest.act if act is None else act
        physics = self._simulator.physics(
            self._vector("qpos", qpos, self.model.nq),
            self._vector("qvel", qvel, self.model.nv),
            self._vector("act", act, self.model.na),
        )
        parameters = self._parametrization.default()
        if force is None:
            physics = self._sense_forces(physics, parameters, scene)
        else:
            force = self._vector("force", force, physics.force.size)
            physics = dataclasses.replace(physics, force=force)
        zero = jnp.zeros((), jnp.int32)
        return MjxState(
            physics=physics,
            scene=scene,
            parameters=parameters,
            key=jax.random.key(0) if key is None else key,
            step_count=zero,
            needs_reset=jnp.asarray(False),
            corrupt_count=zero,
        )

    @property
    def own_gravity(self) -> float:
        """Magnitude of the unchanged model's gravity, m/s²."""
        return self._parametrization.gravity

    @property
    def fixed_physics(self) -> frozenset[str]:
        """Arguments of `with_physics` that cannot be changed in this model."""
        return frozenset(self._parametrization.fixed)

    @property
    def has_contacts(self) -> bool:
        """Whether bodies collide in this model; if not, friction has no effect."""
        flags = self.model.opt.disableflags
        return not flags & int(mujoco.mjtDisableBit.mjDSBL_CONTACT)

    def with_gravity(
        self, state: MjxState, gravity: float | Num[Array, "..."]
    ) -> MjxState:
        """The state with another gravity, which later episodes keep.

        Args:
            state: one state, or a batch of them.
            gravity: magnitude in m/s² (may be traced); a scalar, or one per state of
                a batch. The direction stays the model's.
        """
        return self.with_physics(state, gravity=gravity)

    def with_physics(
        self,
        state: MjxState,
        *,
        gravity: float | Num[Array | np.ndarray, "..."] | None = None,
        friction: float | Num[Array | np.ndarray, "..."] | None = None,
        mass: float | Num[Array | np.ndarray, "..."] | None = None,
        gain: float | Num[Array | np.ndarray, "..."] | None = None,
    ) -> MjxState:
        """The state with other physics parameters, which later episodes keep.

        Each is a scalar or one number per state of a batch, and may be traced; None
        leaves it unchanged. See `envs.mjx.parameters.PhysicsParameters`.

        Args:
            state: one state, or a batch of them.
            gravity: magnitude in m/s².
            friction: factor of all contact friction coefficients, above 0.
            mass: factor of the mass and inertia of all bodies, above 0.
            gain: factor of the force of all actuators.

        Raises:
            ValueError: a value is out of range, does not fit the batch, or cannot be
                changed in this model (muscles).
        """
        values = {"gravity": gravity, "friction": friction, "mass": mass, "gain": gain}
        self._parametrization.check(**values)
        return dataclasses.replace(state, parameters=state.parameters.replace(**values))

    def data(self, state: MjxState) -> mjx.Data:
        """All fields of `mjx.Data` for a state, as after `mj_forward`.

        Using a field that MJX does not compute raises ValueError. This costs about as
        much as a physics step; `measure` computes only what a function reads.
        """
        return self._all_data(state)

    def check_simulation(self) -> None:
        """Traces a physics step and all fields of `data`, without computing them.

        Raises:
            ValueError: MJX cannot simulate the model.
        """
        state = jax.eval_shape(
            lambda: self.from_physics(self._rest.qpos, self._rest.qvel)
        )
        with _mjx_errors(self.task.xml):
            jax.eval_shape(self._all_data, state)
            jax.eval_shape(lambda x: self._simulator.step(x, steps=1), self._rest)

    def measure[T: PyTree](
        self, state: MjxState, function: Callable[[MjModel, mjx.Data], T]
    ) -> T:
        """`function(model, data)` of a state; only what it reads is computed.

        Args:
            state: the state.
            function: takes the host-side model and the state's `mjx.Data`; it is
                traced.

        Raises:
            ValueError: the function reads a field that MJX does not compute.
        """
        return self._simulator_of(state).measure(
            functools.partial(function, self.model),
            state.physics,
            time=self._time(state.step_count),
        )

    def _time(self, count: Int[Array, ""]) -> Float[Array, ""]:
        """Seconds since the episode began, after `count` control steps."""
        return jnp.asarray(count, float) * self.n_substeps * self.model.opt.timestep

    def _vector(self, name: str, value: Array | np.ndarray, size: int) -> Array:
        value = jnp.asarray(value, float)
        if value.shape != (size,):
            raise ValueError(
                f"{name} has shape {value.shape}, but the model of {self.task.xml} "
                f"needs ({size},): pass one environment's coordinates, and jax.vmap "
                "over a batch"
            )
        return value

    def _simulator_of(self, state: MjxState) -> Simulator:
        return self._simulator_with(state.parameters, state.scene)

    def _simulator_with(
        self, parameters: PhysicsParameters, scene: Float[Array, " n"]
    ) -> Simulator:
        """The simulator with the physics parameters and the scene of a state."""
        model = self._parametrization.apply(self._simulator.mjx_model, parameters)
        placed = self.task.place(self.model, model, scene)
        return dataclasses.replace(self._simulator, mjx_model=placed)
