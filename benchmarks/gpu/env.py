"""The parts of ``python -m benchmarks.gpu --stage env``: environments on the GPU.

First whether a step there is MuJoCo's, then control steps a second by task and batch
size, the most wanted sizes first. Compiling takes most of the time.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks.gpu.parts import Clock, Entries, Part, items
from benchmarks.measure.rollouts import DECISIONS, make, mjx_rollout
from benchmarks.measure.timing import Spread, interleave
from envs.mjx._mjx import mujoco
from envs.render import Renderer

ITEM_SECONDS = 45.0
"""No item is begun with less time left than this: compiling it may take that long."""

ROUNDS, ROUND_SECONDS = 5, 0.5
CHECKED_STATES = 256
BATCHES = (16, 4096, 1024, 16384, 128)
"""Training has 16, where the time a step takes is what it takes to begin its work."""
PICTURES = (1024, 16, 128)

ALLOWED = {"pendulum-swingup": 1e-4, "walker-walk": 2e-4}
"""Of the median error of a step's coordinates. In float32 on a CPU walker's is 1e-5;
matrix products of lower precision, or a wrong one, would show here."""


def checks(clock: Clock) -> Entries:
    """One control step on the GPU against MuJoCo itself, from random start states."""
    work = {task: partial(_check, task, allowed) for task, allowed in ALLOWED.items()}
    return items(work, clock, ITEM_SECONDS)


def _check(task: str, allowed: float) -> dict[str, Any]:
    env = make(task)
    keys = jax.random.split(jax.random.key(0), CHECKED_STATES)
    start, _ = jax.jit(jax.vmap(env.reset))(keys)
    shape = (CHECKED_STATES, env.spec.action_dim)
    action = jax.random.uniform(jax.random.key(1), shape, minval=-1.0)
    after, row = jax.jit(jax.vmap(env.advance))(start, action)
    ours = np.concatenate([after.qpos, after.qvel], axis=1)
    begun = zip(start.qpos, start.qvel, action, strict=True)
    theirs = np.stack([_in_mujoco(env, *map(np.asarray, row)) for row in begun])
    worst = np.max(np.abs(ours - theirs), axis=1)
    found = {
        "median": float(np.median(worst)),
        "p95": float(np.quantile(worst, 0.95)),
        "max": float(np.max(worst)),
    }
    passed = found["median"] <= allowed and not bool(jnp.any(row.is_corrupt))
    array = {"name": "state", **found, "allowed_median": allowed, "passed": passed}
    return {"passed": passed, "states": CHECKED_STATES, "arrays": [array]}


def _in_mujoco(
    env: Any, qpos: np.ndarray, qvel: np.ndarray, action: np.ndarray
) -> np.ndarray:
    data = mujoco.MjData(env.model)
    data.qpos[:], data.qvel[:], data.ctrl[:] = qpos, qvel, action
    mujoco.mj_step(env.model, data, env.n_substeps * env.spec.action_repeat)
    return np.concatenate([data.qpos, data.qvel])


def speed(task: str, clock: Clock) -> Entries:
    """Control steps a second of one task, for each batch size there is time for."""
    work: dict[str, Callable[[], dict[str, Any]]] = {
        f"{task}, batch {batch}": partial(time_batch, task, batch) for batch in BATCHES
    }
    return items(work, clock, ITEM_SECONDS)


def time_batch(
    task: str, batch: int, *, rounds: int = ROUNDS, seconds: float = ROUND_SECONDS
) -> dict[str, Any]:
    """Compile and time one batch's rollout (see `benchmarks.measure.rollouts`)."""
    env = make(task)
    rollout = mjx_rollout(env, batch, seconds=seconds)
    taken = interleave({"": rollout.run}, rounds=rounds)[""]
    speeds = Spread.of([rollout.control_steps / s for s in taken])
    decisions = rollout.control_steps / (batch * env.spec.action_repeat)
    return {
        "batch": batch,
        "decisions_in_a_program": DECISIONS,
        "steps_per_second": speeds._asdict(),
        "physics_per_control": env.n_substeps,
        "compile_seconds": rollout.compile_seconds,
        "temporary_bytes": rollout.temporary_bytes,
        "state_bytes": rollout.state_bytes,
        "corrupt_share": rollout.corrupt_share(),
        "programs": {
            "a decision of the batch": {
                "seconds": Spread.of([s / decisions for s in taken])._asdict()
            }
        },
    }


def pictures(task: str, clock: Clock) -> Entries:
    """Frames a second of the ray caster, for each number of them at once."""
    work: dict[str, Callable[[], dict[str, Any]]] = {
        f"{task}, {count} pictures": partial(time_pictures, task, count)
        for count in PICTURES
    }
    return items(work, clock, ITEM_SECONDS / 3)


def time_pictures(task: str, count: int, *, rounds: int = 9) -> dict[str, Any]:
    """Times drawing `count` start states, 64 × 64, from their kinematics on."""
    env = make(task)
    renderer = Renderer(env.model, camera=env.task.camera)
    keys = jax.random.split(jax.random.key(0), count)
    look = jax.jit(
        jax.vmap(
            lambda key: env.measure(
                env.reset(key)[0], lambda _, data: renderer.pose(data)
            )
        )
    )
    poses = jax.block_until_ready(look(keys))
    # Many in one program: one call alone would be mostly the call.
    calls = max(1, 4096 // count)

    @jax.jit
    def draw(poses: Any) -> Array:
        def again(total: Array, shift: Array) -> tuple[Array, None]:
            moved = eqx.tree_at(
                lambda pose: pose.camera_position, poses, poses.camera_position + shift
            )
            picture = jax.vmap(renderer.draw)(moved)
            return total + jnp.sum(picture, dtype=jnp.uint32), None

        shifts = jnp.arange(calls) * 1e-6
        return jax.lax.scan(again, jnp.zeros((), jnp.uint32), shifts)[0]

    begun = time.perf_counter()
    jax.block_until_ready(draw(poses))
    compiling = time.perf_counter() - begun
    taken = interleave({"": lambda: jax.block_until_ready(draw(poses))}, rounds=rounds)[
        ""
    ]
    return {
        "pictures": count,
        "frames_per_second": Spread.of([calls * count / s for s in taken])._asdict(),
        "compile_seconds": compiling,
        "programs": {
            "a picture of the batch": {
                "seconds": Spread.of([s / calls for s in taken])._asdict()
            }
        },
    }


def _rehearse(clock: Clock) -> Entries:
    time_one = partial(time_batch, "pendulum-swingup", 4, rounds=2, seconds=0.01)
    return items({"pendulum-swingup, batch 4": time_one}, clock, 0.0)


PARTS = {
    "checks": Part(checks, 100),
    "walker": Part(partial(speed, "walker-walk"), 170, _rehearse),
    "pictures": Part(partial(pictures, "walker-walk"), 50),
    "cartpole": Part(partial(speed, "cartpole-swingup"), 95),
    "cheetah": Part(partial(speed, "cheetah-run"), 105),
}
"""520 seconds in all: a part's time is what it may take, starting JAX included."""
