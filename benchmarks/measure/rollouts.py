"""Environments as programs to time: MJX on the device, MuJoCo C on the host.

Shared by `benchmarks.environments.throughput` and `benchmarks.gpu.env`.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import envs
from envs.mjx._mjx import mujoco
from envs.mjx.env import MjxEnv

DECISIONS = 8
"""Decisions in one compiled program."""

ACTION_REPEAT = 2
"""Control steps per decision, as in training."""

HOST_STEPS = 256
"""Control steps per call of `mujoco.rollout`: enough to hide its call overhead."""


class Rollout(NamedTuple):
    """A compiled rollout of a batch.

    `run` executes `control_steps` control steps, summed over the batch, and continues
    from the previous call. `corrupt_share` is the fraction of decisions discarded
    because the simulation diverged.
    """

    run: Callable[[], object]
    control_steps: int
    compile_seconds: float
    temporary_bytes: int | None
    state_bytes: int
    corrupt_share: Callable[[], float]


def make(task: str) -> MjxEnv:
    """The environment of a task, as in training."""
    env = envs.make(task, action_repeat=ACTION_REPEAT)
    assert isinstance(env, MjxEnv)  # so are all of `envs.TASKS`
    return env


def mjx_rollout(env: MjxEnv, batch: int, *, seconds: float) -> Rollout:
    """Compile a batch's rollout with random actions, observations and resets.

    **Arguments:**

    - `seconds`: approximate duration of `run`, at least one call.
    """
    vector: Any = envs.VectorEnv(env, batch)
    shape = (DECISIONS, batch, env.spec.action_dim)
    actions = jax.random.uniform(jax.random.key(1), shape, minval=-1.0)

    def roll(state: Any, actions: jax.Array) -> Any:
        def decide(state: Any, action: jax.Array) -> Any:
            state, row = vector.step(state, action)
            return state, (jnp.sum(row.obs), jnp.sum(row.reward))

        return jax.lax.scan(decide, state, actions)

    state, _ = jax.jit(vector.reset)(jax.random.key(0))
    start = time.perf_counter()
    compiled = jax.jit(roll).lower(state, actions).compile()
    compile_seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    held = {"state": jax.block_until_ready(compiled(state, actions))[0], "calls": 1}
    start = time.perf_counter()
    held["state"] = jax.block_until_ready(compiled(held["state"], actions))[0]
    calls = max(1, round(seconds / (time.perf_counter() - start)))

    def run() -> None:
        for _ in range(calls):
            held["state"], _ = compiled(held["state"], actions)
        jax.block_until_ready(held["state"])
        held["calls"] += calls

    def corrupt_share() -> float:
        count = float(jnp.sum(held["state"].corrupt_count))
        return count / (held["calls"] * DECISIONS * batch)

    return Rollout(
        run=run,
        control_steps=calls * DECISIONS * batch * env.spec.action_repeat,
        compile_seconds=compile_seconds,
        temporary_bytes=None if memory is None else memory.temp_size_in_bytes,
        state_bytes=sum(x.nbytes for x in jax.tree.leaves(_plain(state))),
        corrupt_share=corrupt_share,
    )


class HostRollout(NamedTuple):
    """MuJoCo C: `run` simulates `control_steps` control steps, all trajectories."""

    run: Callable[[], object]
    control_steps: int


def mujoco_rollout(env: MjxEnv, *, threads: int, seconds: float) -> HostRollout:
    """`mujoco.rollout` of the same model from the same distribution of initial states.

    The model is the environment's own, with its solver iteration limits. Physics only:
    no observation, reward, reset, or Python between the steps.

    **Arguments:**

    - `threads`: size of the thread pool; there are 4 trajectories per thread.
    - `seconds`: approximate duration of `run`.
    """
    rollout = __import__("mujoco.rollout", fromlist=["rollout"])
    trajectories, steps = 4 * threads, HOST_STEPS
    model = env.model
    starts = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), trajectories))[0]
    data = [mujoco.MjData(model) for _ in range(threads)]
    kind = mujoco.mjtState.mjSTATE_FULLPHYSICS
    initial = np.zeros((trajectories, mujoco.mj_stateSize(model, kind)))
    for i in range(trajectories):
        data[0].qpos[:], data[0].qvel[:] = starts.qpos[i], starts.qvel[i]
        mujoco.mj_getState(model, data[0], initial[i], kind)
    rng = np.random.default_rng(0)
    low, high = model.actuator_ctrlrange.T
    control = rng.uniform(low, high, (trajectories, steps, model.nu))
    control = np.repeat(control, env.n_substeps, axis=1)
    pool = rollout.Rollout(nthread=threads)
    held = {"state": initial}

    def once() -> None:
        # The next call continues from the last states, as in the environment.
        states, _ = pool.rollout(model, data, held["state"], control)
        held["state"] = np.ascontiguousarray(states[:, -1])

    once()
    start = time.perf_counter()
    once()
    calls = max(1, round(seconds / (time.perf_counter() - start)))

    def run() -> None:
        for _ in range(calls):
            once()

    return HostRollout(run, calls * trajectories * steps)


def _plain(tree: Any) -> Any:
    def data(x: jax.Array) -> jax.Array:
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(x) if is_key else x

    return jax.tree.map(data, tree)
