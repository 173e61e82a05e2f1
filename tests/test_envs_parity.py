"""Agreement with dm_control in float64: same state and action, one control step."""

import functools
import os
import warnings

os.environ.setdefault("MUJOCO_GL", "disabled")  # the suite opens a renderer otherwise
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from dm_control import suite
    from dm_control.utils import rewards

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import envs
from envs.dmc.rewards import tolerance
from envs.mjx_env import MjxEnv

pytestmark = pytest.mark.filterwarnings(
    # dm_control's indexing, under numpy 2.5.
    "ignore:Setting the shape on a NumPy array:DeprecationWarning"
)

N_STATES = 64

# (median, 95th percentile, maximum) over the states below of the largest error of a
# state's entries. Without contacts only rounding is left. With contacts the two solvers
# agree as well once both have converged, which ours, stopped early, rarely fails to do.
# Measured over 1200 states of walker: 1e-14, 8e-14, 5e-5 (2 iterations: 0.2, 12, 51).
TOLERANCE = {
    "cartpole": (1e-12, 1e-12, 1e-12),
    "pendulum": (1e-12, 1e-12, 1e-12),
    "walker": (1e-11, 1e-9, 1e-3),
}
DOMAINS = sorted(TOLERANCE)


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


def flat(observation):
    return np.concatenate([np.ravel(entry) for entry in observation.values()])


def load(name):
    domain, task = name.split("-")
    return suite.load(domain, task, task_kwargs={"random": 0})


def put(dm_env, qpos, qvel):
    dm_env.reset()
    with dm_env.physics.reset_context():
        dm_env.physics.data.qpos[:] = qpos
        dm_env.physics.data.qvel[:] = qvel


def name_of(domain):
    return envs.canonical_name(domain)


@functools.cache
def make(name):
    env = envs.make(name, action_repeat=1)
    assert isinstance(env, MjxEnv)
    return env


@functools.cache
def advance(domain):
    return jax.jit(jax.vmap(make(name_of(domain)).advance))


@functools.cache
def measure(name):
    env = make(name)
    return jax.jit(jax.vmap(lambda state: (env.observe(state), env.reward(state))))


@functools.cache
def visited(domain):
    """States and actions of random episodes of dm_control: (qpos, qvel, action)."""
    dm_env = load(name_of(domain))
    rng = np.random.default_rng(0)
    spec = dm_env.action_spec()
    rows = []
    for _ in range(4):
        dm_env.reset()
        for t in range(N_STATES * 5 // 4):
            action = rng.uniform(-1, 1, spec.shape)
            if t % 5 == 0:
                data = dm_env.physics.data
                rows.append((data.qpos.copy(), data.qvel.copy(), action))
            dm_env.step(action)
    return tuple(np.stack(column) for column in zip(*rows, strict=True))


@functools.cache
def advanced(domain):
    """What one control step of ours makes of the visited states."""
    qpos, qvel, action = visited(domain)
    state = jax.vmap(make(name_of(domain)).from_physics)(qpos, qvel)
    return advance(domain)(state, action)


def step_of(dm_env, domain):
    """What one control step of dm_control makes of them: (qpos, qvel, row) lists."""
    rows = []
    for qpos, qvel, action in zip(*visited(domain), strict=True):
        put(dm_env, qpos, qvel)
        row = dm_env.step(action)
        data = dm_env.physics.data
        rows.append((data.qpos.copy(), data.qvel.copy(), row))
    return tuple(zip(*rows, strict=True))


def assert_close(ours, theirs, domain):
    errors = np.max(np.abs(np.asarray(ours) - np.stack(theirs)), axis=1)
    measured = (np.median(errors), np.quantile(errors, 0.95), np.max(errors))
    allowed = TOLERANCE[domain]
    assert all(m <= t for m, t in zip(measured, allowed, strict=True)), measured


@pytest.mark.parametrize("domain", DOMAINS)
def test_next_state(domain):
    state, _ = advanced(domain)
    assert state.qpos.dtype == jnp.float64
    qpos, qvel, _ = step_of(load(name_of(domain)), domain)
    assert_close(state.qpos, qpos, domain)
    assert_close(state.qvel, qvel, domain)


@pytest.mark.parametrize("domain", DOMAINS)
def test_next_state_under_another_gravity(domain):
    env = make(name_of(domain))
    qpos, qvel, action = visited(domain)
    state = env.with_gravity(jax.vmap(env.from_physics)(qpos, qvel), 4.0)
    state, _ = advance(domain)(state, action)
    dm_env = load(name_of(domain))
    dm_env.physics.model.opt.gravity[2] = -4.0
    _, qvel, _ = step_of(dm_env, domain)
    assert_close(state.qvel, qvel, domain)


@pytest.mark.parametrize("name", envs.TASKS)
def test_observation_and_reward_after_a_step(name):
    domain = name.split("-")[0]
    obs, reward = measure(name)(advanced(domain)[0])
    _, _, rows = step_of(load(name), domain)
    assert make(name).spec.obs_shape == obs.shape[1:]
    assert_close(obs, [flat(row.observation) for row in rows], domain)
    assert_close(reward[:, None], [[row.reward] for row in rows], domain)


@pytest.mark.parametrize("domain", DOMAINS)
def test_step_returns_the_observation_and_reward_of_the_new_state(domain):
    state, timestep = advanced(domain)
    obs, reward = measure(name_of(domain))(state)
    assert timestep.obs.dtype == timestep.reward.dtype == jnp.float32
    np.testing.assert_allclose(timestep.obs, obs, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(timestep.reward, reward, rtol=1e-6, atol=1e-6)


def rooted(*, height=0.0, forward=0.0):
    """Coordinates of a walker standing straight, moving at `forward` m/s."""
    qpos, qvel = np.zeros(9), np.zeros(9)
    qpos[0], qvel[1] = height, forward
    return qpos, qvel


def pole(*, cart=0.0, angle=0.0, velocity=0.0):
    return np.array([cart, angle]), np.array([0.0, velocity])


def swing(degrees):
    return np.deg2rad([degrees]), np.zeros(1)


# (task, coordinates, reward): worked out by hand from the definition of the task.
HIGH_REWARDS = [
    ("walker-stand", rooted(), 1.0),
    # 0.6 m below the standing height, at the margin: (3 * 0.1 + 1) / 4.
    ("walker-stand", rooted(height=-0.7), 0.325),
    ("walker-walk", rooted(forward=1.0), 1.0),
    ("walker-walk", rooted(forward=0.75), 1 * (5 * 0.75 + 1) / 6),
    ("walker-walk", rooted(), 1 / 6),
    ("walker-run", rooted(forward=8.5), 1.0),
    ("walker-run", rooted(forward=4.0), 3.5 / 6),
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


@pytest.mark.parametrize("name", envs.TASKS)
def test_rewards_of_hand_built_states(name):
    cases = [case for case in HIGH_REWARDS if case[0] == name]
    assert cases
    # Padded to one batch size, so that the tests share one compiled function.
    qpos, qvel = (
        np.stack([case[1][i] for case in cases] + [cases[0][1][i]] * N_STATES)
        for i in range(2)
    )
    state = jax.vmap(make(name).from_physics)(qpos[:N_STATES], qvel[:N_STATES])
    obs, reward = measure(name)(state)
    dm_env = load(name)
    for i, (_, coordinates, expected) in enumerate(cases):
        assert reward[i] == pytest.approx(expected, abs=1e-9), (coordinates, expected)
        put(dm_env, *coordinates)
        task, physics = dm_env.task, dm_env.physics
        assert reward[i] == pytest.approx(float(task.get_reward(physics)), abs=1e-12)
        np.testing.assert_allclose(
            obs[i], flat(task.get_observation(physics)), atol=1e-12
        )


@pytest.mark.parametrize("name", ["cartpole-balance", "cartpole-swingup", *DOMAINS])
def test_reset_distribution(name):
    name = envs.canonical_name(name)
    n = 1000
    dm_env = load(name)
    theirs = []
    for _ in range(n):
        dm_env.reset()
        data = dm_env.physics.data
        theirs.append(np.concatenate([data.qpos, data.qvel]))
    theirs = np.stack(theirs)
    keys = jax.random.split(jax.random.key(1), n)
    state, timestep = jax.jit(jax.vmap(make(name).reset))(keys)
    ours = np.concatenate([state.qpos, state.qvel], axis=1)
    assert np.all(timestep.is_first)
    for column in range(ours.shape[1]):
        a, b = ours[:, column], theirs[:, column]
        if np.ptp(b) == 0:
            np.testing.assert_array_equal(a, b)
            continue
        standard_error = np.sqrt((a.var() + b.var()) / n)
        assert abs(a.mean() - b.mean()) < 4 * standard_error
        p_value = np.asarray(scipy.stats.ks_2samp(a, b))[1]
        assert p_value > 1e-3
        assert np.ptp(a) == pytest.approx(np.ptp(b), rel=0.25)
        assert a.std() == pytest.approx(b.std(), rel=0.1)
    # Entries are drawn independently.
    varying = ours[:, np.ptp(ours, axis=0) > 0]
    correlation = np.atleast_2d(np.corrcoef(varying, rowvar=False))
    assert np.all(np.abs(correlation - np.eye(len(correlation))) < 0.15)


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
