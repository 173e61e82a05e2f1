"""Episodes of tasks on MuJoCo MJX."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Num

from envs import checks
from envs.base import Env, EnvSpec, Timestep, finite, select
from envs.checks import forked
from envs.mjx._mjx import mjx
from envs.mjx.parameters import PhysicsParameters
from envs.mjx.simulator import Physics, is_sound
from envs.mjx.states import MjxState, MjxStates
from envs.mjx.task import Task, check_task


class MjxEnv(MjxStates, Env[MjxState]):
    """A `Task` simulated by MJX: the episodes over the states of `MjxStates`."""

    def __init__(self, task: Task, *, name: str, action_repeat: int):
        """Loads the task's model.

        Args:
            task: the task.
            name: canonical name, for `spec`.
            action_repeat: control steps per decision; must divide the episode.

        Raises:
            ValueError: `action_repeat` does not divide the control steps of an
                episode, a control of the model is unbounded, a method of the task
                returns a wrong shape or type or reads a field that MJX does not
                compute, or MJX cannot simulate the model.
        """
        forked.check()
        action_repeat, episode_steps = checks.episode(action_repeat, task.episode_steps)
        super().__init__(task)
        model = self.model
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
            control_timestep=float(task.control_timestep or model.opt.timestep),
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

        # NaN and Inf never go away in the simulation, so checking the end is enough.
        # A corrupt decision keeps the state before it, or the reference pose if that
        # state was not finite either: a state holds only finite numbers.
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

    def observe(self, state: MjxState) -> Num[Array, "*obs"]:
        return self.measure(state, lambda *at: jnp.asarray(self.task.observe(*at)))

    def reward(self, state: MjxState) -> Float[Array, ""]:
        return self.measure(state, lambda _, data: self._reward(data))

    def _reward(self, data: mjx.Data) -> Float[Array, ""]:
        return jnp.asarray(self.task.reward(self.model, data), float)

    def _begin(
        self,
        *,
        key: Key[Array, ""],
        parameters: PhysicsParameters,
        corrupt_count: Int[Array, ""],
    ) -> tuple[MjxState, Timestep]:
        """Start an episode: draw its scene, then its coordinates."""
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
        """Controls of an action in [-1, 1], scaled linearly to each ctrlrange."""
        clipped = self._clipped(action)
        low, high = self.model.actuator_ctrlrange.T
        if np.all(low == -1) and np.all(high == 1):
            return clipped
        middle, half = (
            jnp.asarray(x, float) for x in ((low + high) / 2, (high - low) / 2)
        )
        return middle + half * clipped
