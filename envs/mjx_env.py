"""Control-suite tasks on MuJoCo MJX."""

import abc
import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Num

from envs._mjx import MjModel, mjx, mujoco
from envs.assets import load_model
from envs.base import (
    Env,
    EnvSpec,
    State,
    Timestep,
    check_action_repeat,
    first_timestep,
    select,
)

# Same one-step error against MuJoCo as 100/50 iterations, three to four times faster.
# Fewer than 8/10 gives outliers.
SOLVER_ITERATIONS = 8
LINE_SEARCH_ITERATIONS = 10

EPISODE_STEPS = 1000  # control steps; the time limit of every task of the suite

# MuJoCo itself calls a state bad beyond this magnitude (mjMAXVAL).
MAX_MAGNITUDE = 1e10


class Task(abc.ABC):
    """What distinguishes one task: its model, start states, observation and reward.

    `model` below is the host-side MuJoCo model, used for names, ids and ranges.
    `data` has positions, velocities, kinematics and sensors of the present state.
    """

    xml: str
    """File of the model in the assets folder."""

    control_timestep: float | None = None
    """Seconds per control step; None means one physics step."""

    def load(self) -> MjModel:
        """The model of the task."""
        return load_model(self.xml)

    @abc.abstractmethod
    def initial(
        self, model: MjModel, key: Key[Array, ""]
    ) -> tuple[Float[Array, " nq"], Float[Array, " nv"]]:
        """Draws the positions and velocities with which an episode starts."""

    @abc.abstractmethod
    def observe(self, model: MjModel, data: mjx.Data) -> Float[Array, " obs"]:
        """The observation: the flat vector in dm_control's order."""

    @abc.abstractmethod
    def reward(self, model: MjModel, data: mjx.Data) -> Float[Array, ""]:
        """The reward of one control step, at the state in which it ended."""


class Physics(eqx.Module):
    """The part of `mjx.Data` that the simulation continues from.

    All the rest is recomputed from it, so selects, batches and checkpoints of states
    stay small. The acceleration is only the solver's starting point.
    """

    qpos: Float[Array, "*batch nq"]
    qvel: Float[Array, "*batch nv"]
    act: Float[Array, "*batch na"]
    ctrl: Float[Array, "*batch nu"]
    qacc_warmstart: Float[Array, "*batch nv"]


class MjxState(State):
    """State of one `MjxEnv`.

    Attributes:
        physics: MuJoCo coordinates, always finite.
        gravity: magnitude of gravity, m/s².
    """

    physics: Physics
    gravity: Float[Array, "*batch"]
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


class MjxEnv(Env[MjxState]):
    """A `Task` simulated by MJX."""

    def __init__(self, task: Task, *, name: str, action_repeat: int):
        """Loads the task's model.

        Args:
            task: the task.
            name: canonical name, for `spec`.
            action_repeat: control steps per decision; must divide the episode.

        Raises:
            ValueError: `action_repeat` does not divide the 1000 control steps of an
                episode, or the model's controls are not bounded by ±1.
        """
        check_action_repeat(action_repeat, EPISODE_STEPS)
        model = task.load()
        if not np.array_equal(model.actuator_ctrlrange, [[-1.0, 1.0]] * model.nu):
            raise ValueError(
                f"{task.xml}: every control must be bounded by [-1, 1], got "
                f"{model.actuator_ctrlrange.tolist()}: rescale the actuators' gear"
            )
        model.opt.iterations = SOLVER_ITERATIONS
        model.opt.ls_iterations = LINE_SEARCH_ITERATIONS
        # MJX does not compute energies and refuses models that ask for them.
        model.opt.enableflags &= ~int(mujoco.mjtEnableBit.mjENBL_ENERGY)

        control_timestep = task.control_timestep or model.opt.timestep
        self.task = task
        self.model = model
        self.n_substeps = round(control_timestep / model.opt.timestep)
        self._mjx_model = mjx.put_model(model)
        self._template = mjx.make_data(model)
        self._gravity_magnitude = float(np.linalg.norm(model.opt.gravity))
        self._gravity_direction = model.opt.gravity / self._gravity_magnitude
        self._rest = Physics(  # the model's reference pose
            qpos=jnp.asarray(model.qpos0, float),
            qvel=jnp.zeros(model.nv),
            act=jnp.zeros(model.na),
            ctrl=jnp.zeros(model.nu),
            qacc_warmstart=jnp.zeros(model.nv),
        )
        obs = jax.eval_shape(
            lambda: self.observe(self.from_physics(self._rest.qpos, self._rest.qvel))
        )
        self.spec = EnvSpec(
            name=name,
            obs_shape=obs.shape,
            action_dim=model.nu,
            action_repeat=action_repeat,
            episode_steps=EPISODE_STEPS,
            control_timestep=float(control_timestep),
        )

    def reset(self, key: Key[Array, ""]) -> tuple[MjxState, Timestep]:
        rest = self._rest
        return self.restart(self.from_physics(rest.qpos, rest.qvel, key=key))

    def restart(self, state: MjxState) -> tuple[MjxState, Timestep]:
        next_key, draw_key = jax.random.split(state.key)
        qpos, qvel = self.task.initial(self.model, draw_key)
        state = dataclasses.replace(
            self.from_physics(qpos, qvel, key=next_key),
            gravity=state.gravity,
            corrupt_count=state.corrupt_count,
        )
        return state, first_timestep(self.observe(state))

    def advance(
        self, state: MjxState, action: Num[Array, " action"]
    ) -> tuple[MjxState, Timestep]:
        model = self._model_with(state.gravity)

        def substep(physics: Physics, _):
            # MJX relies on rank promotion, which its caller may have forbidden.
            with jax.numpy_rank_promotion("allow"):
                return _lean(mjx.step(model, self._load(physics))), None

        def control_step(physics: Physics, _):
            physics, _ = jax.lax.scan(substep, physics, length=self.n_substeps)
            return physics, self.task.reward(self.model, self._refresh(physics))

        start = dataclasses.replace(state.physics, ctrl=self._clipped(action))
        end, rewards = jax.lax.scan(control_step, start, length=self.spec.action_repeat)
        reward = jnp.sum(rewards)

        # Coordinates that were bad once stay bad, so the end shows the whole decision.
        # A corrupt decision stays where it began, or, if it was handed bad numbers,
        # goes to the reference pose: the state holds only finite numbers.
        corrupt = ~(_is_sound(end) & jnp.isfinite(reward))
        fallback = select(_is_sound(state.physics), state.physics, self._rest)
        state = dataclasses.replace(state, physics=select(corrupt, fallback, end))
        return self._end_decision(state, reward=reward, corrupt=corrupt)

    def from_physics(
        self,
        qpos: Num[Array | np.ndarray, " nq"],
        qvel: Num[Array | np.ndarray, " nv"],
        act: Num[Array | np.ndarray, " na"] | None = None,
        *,
        key: Key[Array, ""] | None = None,
    ) -> MjxState:
        """A state at the start of an episode, from MuJoCo coordinates.

        Args:
            qpos: generalized positions.
            qvel: generalized velocities.
            act: actuator activations; None means zeros.
            key: from which the next episode will be drawn; None means key 0.

        Raises:
            ValueError: an argument's shape is not the model's.
        """
        act = self._rest.act if act is None else act
        zero = jnp.zeros((), jnp.int32)
        return MjxState(
            physics=dataclasses.replace(
                self._rest,
                qpos=self._vector("qpos", qpos, self.model.nq),
                qvel=self._vector("qvel", qvel, self.model.nv),
                act=self._vector("act", act, self.model.na),
            ),
            gravity=jnp.asarray(self._gravity_magnitude, float),
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
        value = jnp.asarray(gravity, float)
        return dataclasses.replace(
            state, gravity=jnp.broadcast_to(value, state.gravity.shape)
        )

    def observe(self, state: MjxState) -> Float[Array, "*obs"]:
        return self.task.observe(self.model, self._refresh(state.physics))

    def reward(self, state: MjxState) -> Float[Array, ""]:
        return self.task.reward(self.model, self._refresh(state.physics))

    def _vector(self, name: str, value: Array | np.ndarray, size: int) -> Array:
        value = jnp.asarray(value, float)
        if value.shape != (size,):
            raise ValueError(
                f"{name} has shape {value.shape}, but the model of {self.task.xml} "
                f"needs ({size},): pass one environment's coordinates, and jax.vmap "
                "over a batch"
            )
        return value

    def _model_with(self, gravity: Float[Array, ""]) -> mjx.Model:
        option = self._mjx_model.opt.replace(gravity=gravity * self._gravity_direction)
        return self._mjx_model.replace(opt=option)

    def _load(self, physics: Physics) -> mjx.Data:
        return self._template.replace(
            qpos=physics.qpos,
            qvel=physics.qvel,
            act=physics.act,
            ctrl=physics.ctrl,
            qacc_warmstart=physics.qacc_warmstart,
        )

    def _refresh(self, physics: Physics) -> mjx.Data:
        """Data whose kinematics and sensors belong to these coordinates.

        After `mjx.step` they still belong to the state before the last substep.
        """
        model = self._mjx_model
        data = self._load(physics)
        stages = (
            mjx.kinematics,
            mjx.com_pos,
            mjx.com_vel,
            mjx.sensor_pos,
            mjx.sensor_vel,
        )
        with jax.numpy_rank_promotion("allow"):
            for stage in stages:
                data = stage(model, data)
        return data


def _lean(data: mjx.Data) -> Physics:
    return Physics(
        qpos=data.qpos,
        qvel=data.qvel,
        act=data.act,
        ctrl=data.ctrl,
        qacc_warmstart=data.qacc_warmstart,
    )


def _is_sound(physics: Physics) -> Bool[Array, ""]:
    """Whether every number is finite and within MuJoCo's own limit."""
    # A comparison with NaN is false, so one comparison finds NaN as well.
    sound = [jnp.all(jnp.abs(x) < MAX_MAGNITUDE) for x in jax.tree.leaves(physics)]
    return jnp.all(jnp.stack(sound))
