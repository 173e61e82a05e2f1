"""Rewards in states built by hand, where random actions do not lead."""

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from dm_control.utils import rewards

import envs
from envs.dmc.rewards import tolerance

pytestmark = pytest.mark.filterwarnings(
    # dm_control's indexing, under numpy 2.5.
    "ignore:Setting the shape on a NumPy array:DeprecationWarning"
)


@pytest.fixture(scope="module", autouse=True)
def fresh_caches():
    # jax keeps the constants inside mjx in the precision that used them first.
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def rooted(n, *, height=0.0, forward=0.0, turned=0.0, sideways_first=False):
    """A planar robot in its reference pose, moving at `forward` m/s.

    Walker's root joints are z, x and rotation; those of the others x, z and rotation.
    """
    qpos, qvel = np.zeros(n), np.zeros(n)
    x, z = (0, 1) if sideways_first else (1, 0)
    qpos[z], qpos[2], qvel[x] = height, turned, forward
    return qpos, qvel


def walker(**coordinates):
    return rooted(9, **coordinates)


def cheetah(speed):
    return rooted(9, forward=speed, sideways_first=True)


def hopper(**coordinates):
    return rooted(7, sideways_first=True, **coordinates)


def pole(*, cart=0.0, angle=0.0, velocity=0.0):
    return np.array([cart, angle]), np.array([0.0, velocity])


def swing(degrees):
    return np.deg2rad([degrees]), np.zeros(1)


def raised(chord):
    """An acrobot, 2 m long, whose straight arm ends `chord` m from the target."""
    return np.array([2 * np.arcsin(chord / 4), 0.0]), np.zeros(2)


def spinning(velocity):
    """The finger hangs down, out of the way of the spinner."""
    return np.array([-np.pi / 2, 0.0, 0.0]), np.array([0.0, 0.0, velocity])


def turned(chord):
    """A spinner whose tip, on a circle of 0.13 m, is `chord` m from the target."""
    angle = 2 * np.arcsin(chord / 0.26)
    hanging = np.array([-np.pi / 2, 0.0, angle])
    return hanging, np.zeros(3), np.array([0.2, 0.53])


# (task, coordinates, reward): worked out by hand from the definition of the task.
HIGH_REWARDS = [
    ("acrobot-swingup", raised(0.0), 1.0),
    ("acrobot-swingup", raised(1.2), 0.1),  # at the margin
    ("acrobot-swingup_sparse", raised(0.199), 1.0),
    ("acrobot-swingup_sparse", raised(0.201), 0.0),
    ("cheetah-run", cheetah(5.0), 0.5),
    ("cheetah-run", cheetah(11.0), 1.0),
    ("cheetah-run", cheetah(-1.0), 0.0),
    ("finger-spin", spinning(-15.0), 1.0),
    ("finger-spin", spinning(-14.9), 0.0),
    ("finger-spin", spinning(15.0), 0.0),
    ("finger-turn_easy", turned(0.0), 1.0),
    ("finger-turn_easy", turned(0.069), 1.0),
    ("finger-turn_easy", turned(0.071), 0.0),
    ("finger-turn_hard", turned(0.029), 1.0),
    ("finger-turn_hard", turned(0.031), 0.0),
    ("hopper-stand", hopper(), 1.0),
    ("hopper-stand", hopper(turned=np.pi / 2), 0.0),  # lying
    ("hopper-hop", hopper(forward=2.0), 1.0),
    ("hopper-hop", hopper(forward=1.5), 0.75),
    ("hopper-hop", hopper(forward=0.5), 0.25),
    ("hopper-hop", hopper(), 0.0),
    ("walker-stand", walker(), 1.0),
    # 0.6 m below the standing height, at the margin: (3 * 0.1 + 1) / 4.
    ("walker-stand", walker(height=-0.7), 0.325),
    ("walker-walk", walker(forward=1.0), 1.0),
    ("walker-walk", walker(forward=0.75), 1 * (5 * 0.75 + 1) / 6),
    ("walker-walk", walker(), 1 / 6),
    ("walker-run", walker(forward=8.5), 1.0),
    ("walker-run", walker(forward=4.0), 3.5 / 6),
    ("cartpole-balance", pole(), 1.0),
    # At every margin: centred 0.55, velocity 0.55.
    ("cartpole-balance", pole(cart=2.0, velocity=5.0), 0.55**2),
    ("cartpole-swingup", pole(angle=np.pi), 0.0),
    ("cartpole-balance_sparse", pole(cart=0.25, angle=0.099), 1.0),
    ("cartpole-balance_sparse", pole(cart=0.251), 0.0),
    ("cartpole-swingup_sparse", pole(angle=0.101), 0.0),
    ("cartpole-swingup_sparse", pole(angle=-0.099), 1.0),
    ("pendulum-swingup", swing(7.9), 1.0),
    ("pendulum-swingup", swing(-7.9), 1.0),
    ("pendulum-swingup", swing(8.1), 0.0),
]
NAMES = [name for name in envs.TASKS if name in {case[0] for case in HIGH_REWARDS}]


def test_no_task_is_left_out():
    elsewhere = [n for n in envs.TASKS if n.split("-")[0] in parity.OWN_FILE]
    missing = sorted(set(envs.TASKS) - {*NAMES, *elsewhere})
    assert not missing, f"their rewards are checked by no test: {missing}"


def measure_in_the_air(name):
    """Observation and reward of coordinates in which nothing touches anything.

    Forces, which take long to compile, are then zeros; test_envs_parity has others.
    """
    env = parity.make(name)
    no_force = np.zeros(env._rest.force.size)

    def measure(qpos, qvel, scene):
        state = env.from_physics(qpos, qvel, scene=scene, force=no_force)
        return env.observe(state), env.reward(state)

    return jax.jit(jax.vmap(measure))


@pytest.mark.parametrize(
    "name", parity.marked(NAMES, common=(*parity.COMMON, "walker"))
)
def test_rewards_of_hand_built_states(name):
    cases = [case for case in HIGH_REWARDS if case[0] == name]
    env, dm_env = parity.make(name), parity.load(name)
    default = env.task.scene(env.model)
    rows = [(*c, default)[:3] for _, c, _ in cases]
    qpos, qvel, scene = (np.stack(column) for column in zip(*rows, strict=True))
    obs, reward = measure_in_the_air(name)(qpos, qvel, scene)
    for i, (_, coordinates, expected) in enumerate(cases):
        assert reward[i] == pytest.approx(expected, abs=1e-9), (coordinates, expected)
        parity.put(dm_env, name, qpos[i], qvel[i], scene=scene[i])
        task, physics = dm_env.task, dm_env.physics
        assert reward[i] == pytest.approx(float(task.get_reward(physics)), abs=1e-12)
        theirs = parity.flat(task.get_observation(physics))
        np.testing.assert_allclose(obs[i], theirs, atol=1e-9)


@pytest.mark.long
def test_small_controls_are_worth_a_fifth_of_hopper_stand():
    env, dm_env = parity.make("hopper-stand"), parity.load("hopper-stand")
    control = np.array([0.5, -0.5, 1.0, 0.0])
    expected = (np.mean(1 - control**2) + 4) / 5

    def reward(qpos, qvel):
        data = env.data(env.from_physics(qpos, qvel, force=np.zeros(2)))
        return env.task.reward(env.model, data.replace(ctrl=jnp.asarray(control)))

    ours = float(jax.jit(reward)(*hopper()))
    assert ours == pytest.approx(expected, abs=1e-12)
    parity.put(dm_env, "hopper-stand", *hopper())
    dm_env.physics.set_control(control)
    theirs = dm_env.task.get_reward(dm_env.physics)
    assert ours == pytest.approx(float(theirs), abs=1e-12)


@pytest.mark.parametrize(
    "arguments",
    [
        {"bounds": (0.3, 0.7)},
        {"bounds": (0.3, float("inf")), "margin": 0.5},
        {"margin": 2.0, "value_at_margin": 0.3},
        {"bounds": (-1.0, 0.5), "margin": 0.7, "sigmoid": "linear"},
        {"margin": 0.5, "sigmoid": "linear", "value_at_margin": 0.5},
        {"margin": 1.0, "sigmoid": "quadratic", "value_at_margin": 0.0},
    ],
)
def test_tolerance(arguments):
    x = np.linspace(-3, 3, 121)
    np.testing.assert_allclose(
        tolerance(jnp.asarray(x), **arguments),
        rewards.tolerance(x, **arguments),
        rtol=0,
        atol=1e-14,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bounds": (1.0, 0.0)}, "bounds="),
        ({"margin": -1.0}, "margin=-1.0"),
        ({"margin": 1.0, "value_at_margin": 0.0}, "value_at_margin=0.0"),
        ({"margin": 1.0, "value_at_margin": 1.0}, "value_at_margin=1.0"),
    ],
)
def test_tolerance_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        tolerance(jnp.zeros(()), **arguments)
