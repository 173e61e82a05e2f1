"""dm_control next to this project's environments, for the parity tests.

Tasks that share their physics form a group, named after the domain, so that one
compiled control step serves all of them.
"""

import functools
import os
import pathlib
import warnings

os.environ.setdefault("MUJOCO_GL", "disabled")  # the suite opens a renderer otherwise
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from dm_control import suite

import jax
import numpy as np
import pytest

import envs
from envs.mjx.env import MjxEnv

N_STATES = 64

# Domains with a test file of their own; the others stand in the tables of
# test_envs_parity and test_envs_rewards.
OWN_FILE = {
    path.stem.removeprefix("test_envs_parity_")
    for path in pathlib.Path(__file__).parents[1].rglob("test_envs_parity_*.py")
}

# Groups that are not the whole domain: the default task of each.
_SPECIAL = {"finger_turn": "finger-turn_easy"}

# What an episode draws besides coordinates: where dm_control writes it.
_SCENES = {
    "finger_turn": ("site_pos", "target", ["x", "z"]),
    "reacher": ("geom_pos", "target", ["x", "y"]),
}


def group_of(name):
    """The group of a task."""
    domain, task = name.split("-")
    return "finger_turn" if domain == "finger" and "turn" in task else domain


# What every run of the suite compares.
COMMON = ("cartpole", "pendulum")


def marked(values, slow=(), common=COMMON):
    """Groups or tasks as parameters; those of other groups are slow or long tests."""

    def marks(value):
        group = group_of(value) if "-" in value else value
        if group in slow:
            return [pytest.mark.slow]
        return [] if group in common else [pytest.mark.long]

    return [pytest.param(value, marks=marks(value)) for value in values]


def task_of(group):
    """The task whose physics stands for the group."""
    special = _SPECIAL.get(group)
    return envs.canonical_name(special or group)


def load(name):
    """dm_control's task of that name."""
    domain, task = name.split("-")
    return suite.load(domain, task, task_kwargs={"random": 0})


def flat(observation):
    """dm_control's observation as one vector."""
    return np.concatenate([np.ravel(entry) for entry in observation.values()])


def scene_of(dm_env, name):
    """The scene of dm_control's present episode, empty for most tasks."""
    if group_of(name) not in _SCENES:
        return np.zeros(0)
    field, element, axes = _SCENES[group_of(name)]
    return np.array(getattr(dm_env.physics.named.model, field)[element, axes])


def native(dm_env, action):
    """The controls that an action in [-1, 1] means to dm_control."""
    spec = dm_env.action_spec()
    return spec.minimum + (action + 1) / 2 * (spec.maximum - spec.minimum)


def put(dm_env, name, qpos, qvel, act=(), scene=()):
    """Begins an episode of dm_control in these coordinates."""
    dm_env.reset()
    physics = dm_env.physics
    with physics.reset_context():
        physics.data.qpos[:] = qpos
        physics.data.qvel[:] = qvel
        if len(act):
            physics.data.act[:] = act
        if len(scene):
            field, element, axes = _SCENES[group_of(name)]
            getattr(physics.named.model, field)[element, axes] = scene


@functools.cache
def make(name):
    """This project's task of that name, one control step a decision."""
    env = envs.make(name, action_repeat=1)
    assert isinstance(env, MjxEnv)
    return env


@functools.cache
def begin(group):
    """Compiled: states of (qpos, qvel, act, scene), each with a batch axis."""
    env = make(task_of(group))

    def from_physics(qpos, qvel, act, scene):
        return env.from_physics(qpos, qvel, act, scene=scene)

    return jax.jit(jax.vmap(from_physics))


@functools.cache
def advance(group):
    """Compiled: one control step of a batch."""
    return jax.jit(jax.vmap(make(task_of(group)).advance))


@functools.cache
def measure(name):
    """Compiled: observation and reward of a batch."""
    env = make(name)
    return jax.jit(jax.vmap(lambda state: (env.observe(state), env.reward(state))))


@functools.cache
def visited(group):
    """States of random episodes of dm_control, half of them in contact if possible.

    Returns:
        The columns qpos, qvel, act, scene and action, each with `N_STATES` rows.
    """
    name = task_of(group)
    dm_env = load(name)
    data, shape = dm_env.physics.data, dm_env.action_spec().shape
    rng = np.random.default_rng(0)
    touching, free = [], []
    for episode in range(12):
        dm_env.reset()
        scene = scene_of(dm_env, name)
        for t in range(100):
            if episode % 2 == 0:
                action = rng.uniform(-1, 1, shape)
            elif t % 8 == 0:  # held at a bound for a while: faster, and harder hits
                action = rng.choice([-1.0, 1.0], shape)
            row = (data.qpos, data.qvel, data.act, scene, action)
            if t > 0:
                kind = touching if data.ncon else free
                kind.append(tuple(np.array(column) for column in row))
            dm_env.step(native(dm_env, action))
    n_touching = min(len(touching), max(N_STATES // 2, N_STATES - len(free)))
    rows = [touching[i] for i in rng.permutation(len(touching))[:n_touching]]
    rows += [free[i] for i in rng.permutation(len(free))[: N_STATES - n_touching]]
    return tuple(np.stack(column) for column in zip(*rows, strict=True))


@functools.cache
def begun(group):
    """This project's states of the visited coordinates."""
    return begin(group)(*visited(group)[:-1])


@functools.cache
def advanced(group):
    """What one control step of ours makes of the visited states: (states, rows)."""
    return advance(group)(begun(group), visited(group)[-1])


def steps_of(dm_env, name):
    """What one control step of dm_control makes of them: (qpos, qvel, row) lists."""
    rows = []
    for qpos, qvel, act, scene, action in zip(*visited(group_of(name)), strict=True):
        put(dm_env, name, qpos, qvel, act, scene)
        row = dm_env.step(native(dm_env, action))
        data = dm_env.physics.data
        rows.append((data.qpos.copy(), data.qvel.copy(), row))
    return tuple(zip(*rows, strict=True))
