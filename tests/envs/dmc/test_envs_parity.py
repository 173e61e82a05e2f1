"""Agreement with dm_control in float64: same state and action, one control step."""

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
import scipy.stats

import envs

pytestmark = [
    pytest.mark.filterwarnings(
        # dm_control's indexing, under numpy 2.5.
        "ignore:Setting the shape on a NumPy array:DeprecationWarning"
    ),
    pytest.mark.usefixtures("quick_compiles"),
]

# (median, maximum) over the visited states of the largest error of a state's entries.
# Without contacts only rounding is left; with contacts the two solvers must agree too,
# and friction in a joint, as in finger, is where they stop at some distance.
TOLERANCE = {
    "acrobot": (1e-12, 1e-12),
    "cartpole": (1e-12, 1e-12),
    "cheetah": (1e-11, 1e-9),
    "finger": (1e-8, 1e-6),
    "finger_turn": (1e-8, 1e-6),
    "hopper": (1e-11, 1e-9),
    "pendulum": (1e-12, 1e-12),
    "walker": (1e-11, 1e-9),
}
# The first test has the default task of each.
NAMES = [
    name
    for name in envs.TASKS
    if (group := parity.group_of(name)) in TOLERANCE and name != parity.task_of(group)
]

# What takes longest to compile.
HEAVY = ("cheetah", "finger_turn", "hopper")


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


def test_no_task_is_left_out():
    for table in (TOLERANCE, {parity.group_of(name) for name in STARTS}):
        missing = [
            name
            for name in envs.TASKS
            if parity.group_of(name) not in table
            and name.split("-")[0] not in parity.OWN_FILE
        ]
        assert not missing, f"compared with dm_control by no test: {missing}"


def assert_close(ours, theirs, group):
    errors = np.max(np.abs(np.asarray(ours) - np.stack(theirs)), axis=1)
    measured = (np.median(errors), np.max(errors))
    allowed = TOLERANCE[group]
    assert all(m <= t for m, t in zip(measured, allowed, strict=True)), measured


# The rewards of the turn tasks, in test_envs_rewards, have their observations as well.
@pytest.mark.parametrize("group", parity.marked(TOLERANCE, slow=("finger_turn",)))
def test_next_state_observation_and_reward(group):
    name = parity.task_of(group)
    state, timestep = parity.advanced(group)
    assert state.qpos.dtype == jnp.float64
    qpos, qvel, rows = parity.steps_of(parity.load(name), name)
    assert_close(state.qpos, qpos, group)
    assert_close(state.qvel, qvel, group)
    obs, reward = parity.measure(name)(state)
    assert parity.make(name).spec.obs_shape == obs.shape[1:]
    assert_close(obs, [parity.flat(row.observation) for row in rows], group)
    assert_close(reward[:, None], [[row.reward] for row in rows], group)
    # The row of the step is that of the state it led to.
    assert timestep.obs.dtype == timestep.reward.dtype == jnp.float32
    np.testing.assert_allclose(timestep.obs, obs, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(timestep.reward, reward, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", parity.marked(NAMES, slow=HEAVY))
def test_observation_and_reward_of_the_other_tasks(name):
    group = parity.group_of(name)
    obs, reward = parity.measure(name)(parity.advanced(group)[0])
    _, _, rows = parity.steps_of(parity.load(name), name)
    assert_close(obs, [parity.flat(row.observation) for row in rows], group)
    assert_close(reward[:, None], [[row.reward] for row in rows], group)


@pytest.mark.parametrize("group", parity.marked(TOLERANCE, slow=HEAVY))
def test_observation_at_the_start(group):
    name = parity.task_of(group)
    obs, _ = parity.measure(name)(parity.begun(group))
    dm_env = parity.load(name)
    theirs = []
    for *coordinates, _ in zip(*parity.visited(group), strict=True):
        parity.put(dm_env, name, *coordinates)
        theirs.append(parity.flat(dm_env.task.get_observation(dm_env.physics)))
    assert_close(obs, theirs, group)


@pytest.mark.parametrize(
    "group", parity.marked([g for g in TOLERANCE if "finger" not in g], slow=HEAVY)
)
def test_next_state_under_another_gravity(group):
    name = parity.task_of(group)
    state = parity.make(name).with_gravity(parity.begun(group), 4.0)
    state, _ = parity.advance(group)(state, parity.visited(group)[-1])
    dm_env = parity.load(name)
    dm_env.physics.model.opt.gravity[2] = -4.0
    _, qvel, _ = parity.steps_of(dm_env, name)
    assert_close(state.qvel, qvel, group)


@pytest.mark.parametrize("group", parity.marked(["finger", "hopper", "walker"]))
def test_visited_states_are_in_contact(group):
    # What the figures above mean: half of the states are in contact, and touch sensors,
    # where there are any, read something after the step.
    name = parity.task_of(group)
    dm_env = parity.load(name)
    touching = 0
    for *coordinates, _ in zip(*parity.visited(group), strict=True):
        parity.put(dm_env, name, *coordinates)
        touching += dm_env.physics.data.ncon > 0
    assert touching >= parity.N_STATES // 2
    if group != "walker":
        force = parity.advanced(group)[0].physics.force
        assert force.shape[1:] == (2,)
        assert np.mean(np.any(force > 0.01, axis=1)) > 0.1


N_RESETS = {"cheetah": 300}  # each is 200 physics steps

# A task of every kind of start.
STARTS = [
    "acrobot-swingup",
    "cartpole-balance",
    "cartpole-swingup",
    "cheetah-run",
    "finger-spin",
    "finger-turn_easy",
    "hopper-hop",
    "pendulum-swingup",
    "walker-walk",
]


@pytest.mark.parametrize("name", parity.marked(STARTS, slow=(*HEAVY, "finger")))
def test_reset_distribution(name):
    group = parity.group_of(name)
    n = N_RESETS.get(group, 1000)
    dm_env = parity.load(name)
    theirs = []
    for _ in range(n):
        dm_env.reset()
        data = dm_env.physics.data
        scene = parity.scene_of(dm_env, name)
        theirs.append(np.concatenate([data.qpos, data.qvel, scene]))
    theirs = np.stack(theirs)
    keys = jax.random.split(jax.random.key(1), n)
    state, timestep = jax.jit(jax.vmap(parity.make(name).reset))(keys)
    ours = np.concatenate([state.qpos, state.qvel, state.scene], axis=1)
    assert np.all(timestep.is_first)
    for column in range(ours.shape[1]):
        a, b = ours[:, column], theirs[:, column]
        if np.ptp(b) == 0:
            np.testing.assert_array_equal(a, b)
            continue
        standard_error = np.sqrt((a.var() + b.var()) / n)
        assert abs(a.mean() - b.mean()) < 4 * standard_error, column
        p_value = np.asarray(scipy.stats.ks_2samp(a, b))[1]
        assert p_value > 1e-3, column
        if group != "cheetah":  # its ranges are those of few that fell on their back
            assert np.ptp(a) == pytest.approx(np.ptp(b), rel=0.25), column
            assert a.std() == pytest.approx(b.std(), rel=0.1), column
    if group == "cheetah":
        return
    # Entries are drawn independently.
    varying = ours[:, np.ptp(ours, axis=0) > 0]
    correlation = np.atleast_2d(np.corrcoef(varying, rowvar=False))
    assert np.all(np.abs(correlation - np.eye(len(correlation))) < 0.15)
