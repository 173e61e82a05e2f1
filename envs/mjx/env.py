"""Control-suite tasks on MuJoCo MJX."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Num, PyTree

from envs import checks
from envs.base import Env, EnvSpec, State, Timestep, finite, select
from envs.checks import forked
from envs.mjx._mjx import MjModel, mjx, mujoco
from envs.mjx.features import check_features
from envs.mjx.parameters import Parametrization, PhysicsParameters
from envs.mjx.simulator import Physics, Simulator, is_sound
from envs.mjx.task import Task, check_controls, check_task


@contextlib.contextmanager
def _mjx_errors(label: str) -> Iterator[None]:
    """Makes one ValueError of whatever MJX raises about a model."""
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
        scene: what the episode drew besides coordinates; see `Task`.
        parameters: gravity, friction, mass and gain, kept over all episodes.
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


class MjxEnv(Env[MjxState]):
    """A `Task` simulated by MJX."""

    def __init__(self, task: Task, *, name: str, action_repeat: int):
        """Loads the task's model.

        Args:
            task: the task.
            name: canonical name, for `spec`.
            action_repeat: control steps per decision; must divide the episode.

        Raises:
            ValueError: `action_repeat` does not divide the control steps of an
                episode, a control of the model is unbounded, a method of the task
                returns something else than it should or reads what cannot be computed,
                or MJX cannot simulate the model.
        """
        forked.check()
        action_repeat, episode_steps = checks.episode(action_repeat, task.episode_steps)
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
        self._everything = jax.jit(
            lambda state: self._simulator_of(state).data(
                state.physics, time=self._time(state.step_count)
            )
        )
        template = self._simulator.template
        obs_shape, obs_dtype = check_task(task, model, lambda: template)
        self._simulator.check_reads(
            {
                what: functools.partial(function, model)
                for what in ("observe", "reward", "terminal")
                if (function := getattr(task, what)) is not None
            }
        )
        self.spec = EnvSpec(
            name=name,
            obs_shape=obs_shape,
            obs_dtype=obs_dtype,
            obs_entries=task.obs_entries,
            action_dim=model.nu,
            action_repeat=action_repeat,
            episode_steps=episode_steps,
            control_timestep=float(control_timestep),
        )

    def reset(self, key: Key[Array, ""]) -> tuple[MjxState, Timestep]:
        return self._begin(
            key=key,
            parameters=self._parametrization.default(),
            corrupt_count=jnp.zeros((), jnp.int32),
        )

    def restart(self, state: MjxState) -> tuple[MjxState, Timestep]:
        return self._begin(
            key=state.key,
            parameters=state.parameters,
            corrupt_count=state.corrupt_count,
        )

    def advance(
        self, state: MjxState, action: Num[Array, " action"]
    ) -> tuple[MjxState, Timestep]:
        simulator = self._simulator_of(state)

        def control_step(physics: Physics, count: Int[Array, ""]):
            physics = simulator.step(physics, steps=self.n_substeps)
            time = self._time(count)
            return physics, simulator.measure(self._reward, physics, time=time)

        start = dataclasses.replace(state.physics, ctrl=self._control(action))
        counts = state.step_count + 1 + jnp.arange(self.spec.action_repeat)
        end, rewards = jax.lax.scan(control_step, start, counts)
        reward = jnp.sum(rewards)

        # Coordinates that were bad once stay bad, so the end shows the whole decision.
        # A corrupt decision stays where it began, or, if it was handed bad numbers,
        # goes to the reference pose: the state holds only finite numbers.
        corrupt = ~(is_sound(end) & jnp.isfinite(reward))
        fallback = select(is_sound(state.physics), state.physics, self._rest)
        state = dataclasses.replace(state, physics=select(corrupt, fallback, end))
        terminal = None
        if self.task.terminal is not None:
            count = state.step_count + self.spec.action_repeat
            after = dataclasses.replace(state, step_count=count)
            ended = self.task.terminal
            terminal = self.measure(after, lambda *at: jnp.asarray(ended(*at)))
        return self._end_decision(
            state, reward=reward, corrupt=corrupt, terminal=terminal
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
            scene: what an episode draws besides (see `Task`), such as the place of a
                target; None means the one in the model's file.
            force: readings of the force sensors; None means those without actuation.
            key: from which the next episode will be drawn; None means key 0.

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

    def with_gravity(
        self, state: MjxState, gravity: float | Num[Array, "..."]
    ) -> MjxState:
        """The state under another gravity, which every later episode keeps.

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
        """The state under other physics parameters, which every later episode keeps.

        Each may be traced, and is a scalar, or one number per state of a batch; None
        leaves it as it is. See `envs.mjx.parameters.PhysicsParameters`.

        Args:
            state: one state, or a batch of them.
            gravity: magnitude in m/s².
            friction: factor of all contact friction coefficients, above 0.
            mass: factor of the mass and inertia of all bodies, above 0.
            gain: factor of the force of all actuators.

        Raises:
            ValueError: a value is out of its range, does not fit the batch, or the
                model cannot have it changed (muscles).
        """
        values = {"gravity": gravity, "friction": friction, "mass": mass, "gain": gain}
        self._parametrization.check(**values)
        return dataclasses.replace(state, parameters=state.parameters.replace(**values))

    def data(self, state: MjxState) -> mjx.Data:
        """All that MJX computes of a state, as after `mj_forward`.

        Using a field that MJX does not compute raises ValueError. Much of it is as much
        work as a physics step: `measure` computes just what a function reads.
        """
        return self._everything(state)

    def check_simulation(self) -> None:
        """Traces a step and all that can be read of a state, computing nothing.

        Raises:
            ValueError: MJX cannot simulate the model.
        """
        state = jax.eval_shape(
            lambda: self.from_physics(self._rest.qpos, self._rest.qvel)
        )
        with _mjx_errors(self.task.xml):
            jax.eval_shape(self._everything, state)
            jax.eval_shape(lambda x: self._simulator.step(x, steps=1), self._rest)

    def measure[T: PyTree](
        self, state: MjxState, function: Callable[[MjModel, mjx.Data], T]
    ) -> T:
        """`function(model, data)` of a state, computing what it reads of `data`.

        Args:
            state: the state.
            function: of the host-side model and the data of the state; it is traced.

        Raises:
            ValueError: the function reads a field that MJX does not compute.
        """
        return self._simulator_of(state).measure(
            functools.partial(function, self.model),
            state.physics,
            time=self._time(state.step_count),
        )

    def observe(self, state: MjxState) -> Num[Array, "*obs"]:
        return self.measure(state, lambda *at: jnp.asarray(self.task.observe(*at)))

    def reward(self, state: MjxState) -> Float[Array, ""]:
        return self.measure(state, lambda _, data: self._reward(data))

    def _reward(self, data: mjx.Data) -> Float[Array, ""]:
        return jnp.asarray(self.task.reward(self.model, data), float)

    def _time(self, count: Int[Array, ""]) -> Float[Array, ""]:
        """Seconds since an episode's first row, after `count` control steps."""
        return jnp.asarray(count, float) * self.n_substeps * self.model.opt.timestep

    def _begin(
        self,
        *,
        key: Key[Array, ""],
        parameters: PhysicsParameters,
        corrupt_count: Int[Array, ""],
    ) -> tuple[MjxState, Timestep]:
        """Draws an episode: its scene, then its coordinates in that scene."""
        next_key, draw_key = jax.random.split(key)
        scene_key = draw_key
        if self.task.scene(self.model).size:
            draw_key, scene_key = jax.random.split(draw_key)
        scene = self.task.draw_scene(self.model, scene_key)
        simulator = self._simulator_with(parameters, scene)
        qpos, qvel = self.task.initial(simulator, draw_key)
        physics = simulator.sense_forces(simulator.physics(qpos, qvel))
        sound = is_sound(physics) & finite(scene)
        state = MjxState(
            physics=select(sound, physics, self._rest),
            scene=select(sound, scene, jnp.asarray(self.task.scene(self.model), float)),
            parameters=parameters,
            key=next_key,
            step_count=jnp.zeros((), jnp.int32),
            needs_reset=jnp.asarray(False),
            corrupt_count=corrupt_count,
        )
        return self._begin_episode(state, corrupt=~sound)

    def _control(self, action: Num[Array, " action"]) -> Float[Array, " nu"]:
        """The controls that an action in [-1, 1] means: linear in each one's range."""
        clipped = self._clipped(action)
        low, high = self.model.actuator_ctrlrange.T
        if np.all(low == -1) and np.all(high == 1):
            return clipped
        middle, half = (
            jnp.asarray(x, float) for x in ((low + high) / 2, (high - low) / 2)
        )
        return middle + half * clipped

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
        """The simulator under the physics parameters and the scene of a state."""
        model = self._parametrization.apply(self._simulator.mjx_model, parameters)
        placed = self.task.place(self.model, model, scene)
        return dataclasses.replace(self._simulator, mjx_model=placed)
