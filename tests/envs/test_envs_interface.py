"""Episodes, resets, corrupt steps, gravity, batches and compilation."""

import dataclasses
import functools
from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs

N = 4
# Cart-pole differs from these in nothing that is tested here but its compile time.
DOMAINS = (
    pytest.param("cartpole", marks=pytest.mark.slow),
    "pendulum",
    pytest.param("walker", marks=pytest.mark.long),
)


@functools.cache
def make(name, action_repeat=2) -> Any:
    return envs.make(name, action_repeat=action_repeat)


@functools.cache
def vector(name):
    return envs.VectorEnv(make(name), N)


@functools.cache
def vector_step(name):
    return jax.jit(vector(name).step)


@functools.cache
def vector_reset(name):
    return jax.jit(vector(name).reset)


@functools.cache
def single_step(name):
    return jax.jit(make(name).step)


@functools.cache
def single_reset(name):
    return jax.jit(make(name).reset)


def actions(name, *, seed=0):
    shape = (N, make(name).spec.action_dim)
    return jax.random.uniform(jax.random.key(seed), shape, minval=-1.0)


def assert_same(a, b, *, atol=0.0):
    def same(x, y):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_allclose(x, y, rtol=0, atol=atol)

    jax.tree.map(same, a, b)


def row(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def assert_finite(state):
    chex.assert_tree_all_finite(eqx.filter(state, eqx.is_inexact_array))


@pytest.mark.long
@pytest.mark.parametrize("action_repeat", [1, 2])
def test_two_whole_episodes(getkey, action_repeat):
    env = make("pendulum", action_repeat)
    decisions = 1000 // action_repeat
    assert env.spec.episode_decisions == decisions
    batch = envs.VectorEnv(env, 2)

    def body(state, key):
        action = jax.random.uniform(key, (2, 1), minval=-1.0)
        state, timestep = batch.step(state, action)
        return state, (timestep, state.step_count)

    state, first = batch.reset(getkey())
    keys = jax.random.split(getkey(), 2 * decisions + 1)
    _, (rows, count) = jax.jit(lambda s: jax.lax.scan(body, s, keys))(state)

    # Row t follows the t-th call of step; `first` is row 0.
    last, fresh = decisions, decisions + 1
    is_last, is_first = (np.asarray(x[:, 0]) for x in (rows.is_last, rows.is_first))
    assert np.flatnonzero(is_last).tolist() == [last - 1, last + fresh - 1]
    assert np.flatnonzero(is_first).tolist() == [fresh - 1]
    np.testing.assert_array_equal(rows.is_last[:, 0], rows.is_last[:, 1])
    assert not np.any(rows.is_terminal) and not np.any(rows.is_corrupt)
    assert np.all(first.is_first) and not np.any(first.is_last)
    assert np.all(count[last - 1] == 1000) and np.all(count[fresh - 1] == 0)
    assert np.all(rows.reward[fresh - 1] == 0) and np.all(first.reward == 0)

    # Every reset is drawn anew, for each copy and for each episode.
    starts = np.concatenate([first.obs[:, 0], rows.obs[fresh - 1, :, 0]])
    assert len(set(starts.tolist())) == 4
    # The last row's observation continues its episode: no jump before the reset.
    velocity = np.asarray(rows.obs[:, 0, 2])
    jump = np.abs(np.diff(velocity))
    assert jump[last - 2] < 1.0
    np.testing.assert_array_equal(rows.final_obs[last - 1], rows.obs[last - 1])


@pytest.mark.parametrize("domain", DOMAINS)
def test_episode_boundary(domain):
    state, _ = vector_reset(domain)(jax.random.key(0))
    count = jnp.array([996, 998, 0, 500], jnp.int32)
    state = dataclasses.replace(state, step_count=count)
    step = vector_step(domain)
    before, timestep = step(state, actions(domain))
    assert timestep.is_last.tolist() == [False, True, False, False]
    assert not np.any(timestep.is_terminal) and not np.any(timestep.is_corrupt)
    observed = make(domain).observe(row(before, 1))
    np.testing.assert_allclose(timestep.obs[1], observed, rtol=1e-5, atol=1e-5)

    after, timestep = step(before, actions(domain, seed=1))
    assert timestep.is_first.tolist() == [False, True, False, False]
    assert timestep.is_last.tolist() == [True, False, False, False]
    assert timestep.reward[1] == 0 and after.step_count.tolist() == [1000, 0, 4, 504]
    # The new episode starts as the state's own key says, whatever the action.
    other, _ = step(before, actions(domain, seed=2))
    assert_same(row(other, 1), row(after, 1))
    expected, _ = make(domain).restart(row(before, 1))
    assert_same(row(after, 1), expected, atol=1e-6)


@pytest.mark.parametrize("domain", DOMAINS)
def test_actions_are_clipped(domain):
    state, _ = vector_reset(domain)(jax.random.key(0))
    sign = jnp.sign(actions(domain))
    step = vector_step(domain)
    assert_same(step(state, 7.0 * sign), step(state, sign))
    assert not np.allclose(step(state, 0.5 * sign)[0].qvel, step(state, sign)[0].qvel)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_corrupt_step_resets_only_its_environment(domain, bad):
    step = vector_step(domain)
    start, _ = vector_reset(domain)(jax.random.key(0))
    start, previous = step(start, actions(domain))
    clean, clean_row = step(start, actions(domain))
    others = np.array([0, 1, 3])

    qvel = start.qvel.at[2, 0].set(bad)
    physics = dataclasses.replace(start.physics, qvel=qvel)
    injected = {
        "state": (dataclasses.replace(start, physics=physics), actions(domain)),
    }
    if np.isnan(bad):  # an infinite action is clipped
        action = actions(domain).at[2].set(bad)
        injected["action"] = (start, action)
    for where, (state, action) in injected.items():
        state, timestep = step(state, action)
        assert timestep.is_corrupt.tolist() == [False, False, True, False]
        assert timestep.is_last.tolist() == [False, False, True, False]
        assert timestep.reward[2] == 0 and not timestep.is_terminal[2]
        assert state.corrupt_count.tolist() == [0, 0, 1, 0]
        assert_finite((state, timestep))
        if where == "action":  # the state was finite, so its observation is repeated
            np.testing.assert_allclose(timestep.obs[2], previous.obs[2], atol=1e-6)
        assert_same(row(state, others), row(clean, others))
        assert_same(row(timestep, others), row(clean_row, others))

        state, timestep = step(state, actions(domain, seed=1))
        assert timestep.is_first.tolist() == [False, False, True, False]
        assert not np.any(timestep.is_corrupt)
        assert state.corrupt_count.tolist() == [0, 0, 1, 0]
        assert_finite((state, timestep))


def test_numbers_beyond_mujocos_limit_are_corrupt():
    state, _ = single_reset("pendulum")(jax.random.key(0))
    qvel = jnp.full((1,), 1e20)
    state = dataclasses.replace(
        state, physics=dataclasses.replace(state.physics, qvel=qvel)
    )
    state, timestep = single_step("pendulum")(state, jnp.zeros(1))
    assert timestep.is_corrupt and state.qvel[0] == 0


def test_gravity_of_a_batch_equals_single_runs():
    domain = "pendulum"
    env = make(domain)
    gravities = jnp.array([9.81, 4.0, 1.0, 20.0])
    start, _ = vector_reset(domain)(jax.random.key(0))
    qpos = jnp.broadcast_to(start.qpos[:1] + 0.5, start.qpos.shape)
    qvel = jnp.zeros_like(start.qvel)
    batch = env.with_gravity(jax.vmap(env.from_physics)(qpos, qvel), gravities)
    after, _ = vector_step(domain)(batch, actions(domain))
    for i in range(N):
        state = env.with_gravity(env.from_physics(qpos[i], qvel[i]), gravities[i])
        single, _ = single_step(domain)(state, actions(domain)[i])
        np.testing.assert_allclose(after.qvel[i], single.qvel, rtol=1e-5, atol=1e-6)
    assert len(np.unique(after.qvel[:, -1])) == N


def test_gravity_has_the_size_it_says():
    # At rest and horizontal, the mass at 0.5 m falls with g / 0.5 rad/s², less the
    # little that the sphere's own inertia (2/5 m r², r = 0.05 m) and the damping take.
    env = make("pendulum", 1)
    qpos, qvel = jnp.array([jnp.pi / 2]), jnp.zeros(1)
    step = jax.jit(env.step)
    for gravity in (1.0, 4.0, 9.81):
        state = env.with_gravity(env.from_physics(qpos, qvel), gravity)
        state, _ = step(state, jnp.zeros(1))
        inertia = 0.5**2 + 0.4 * 0.05**2
        implicit_damping = 0.1 * 0.02
        expected = 0.02 * gravity * 0.5 / (inertia + implicit_damping)
        assert float(state.qvel[0]) == pytest.approx(expected, rel=1e-4)


def test_gravity_survives_the_automatic_reset():
    state, _ = vector_reset("pendulum")(jax.random.key(0))
    state = make("pendulum").with_gravity(state, 4.0)
    state = dataclasses.replace(state, needs_reset=jnp.ones(N, bool))
    state, timestep = vector_step("pendulum")(state, actions("pendulum"))
    assert np.all(timestep.is_first) and np.all(state.gravity == 4.0)


@pytest.mark.parametrize("name", ["pendulum", "toy-target"])
def test_vector_env_equals_vmapped_env(name):
    state, _ = vector_reset(name)(jax.random.key(0))
    # Copies that end at different times, so that some steps reset only some of them.
    left = jnp.array([2, 4, 4, 8], jnp.int32)
    state = dataclasses.replace(state, step_count=make(name).spec.episode_steps - left)
    vmapped = jax.jit(jax.vmap(make(name).step))
    ours = theirs = state
    firsts = []
    for seed in range(6):
        action = actions(name, seed=seed)
        ours, our_row = vector_step(name)(ours, action)
        theirs, their_row = vmapped(theirs, action)
        assert_same((ours, our_row), (theirs, their_row), atol=1e-5)
        firsts.append(our_row.is_first)
    assert np.sum(firsts, axis=0).tolist() == [1, 1, 1, 1]
    assert np.sum(firsts, axis=1).tolist() == [0, 1, 2, 0, 1, 0]


def draws_outside_cond(jaxpr):
    """Names of the random primitives of a jaxpr, those under a cond left out."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "cond":
            continue
        found.append(equation.primitive.name)
        for value in equation.params.values():
            value = getattr(value, "jaxpr", value)  # a closed jaxpr
            if hasattr(value, "eqns"):
                found += draws_outside_cond(value)
    return [name for name in found if name.startswith("random_")]


def test_vector_env_draws_resets_only_under_the_cond():
    state, _ = vector_reset("pendulum")(jax.random.key(0))
    action = actions("pendulum")
    assert not draws_outside_cond(
        jax.make_jaxpr(vector("pendulum").step)(state, action).jaxpr
    )
    vmapped = jax.make_jaxpr(jax.vmap(make("pendulum").step))(state, action)
    assert draws_outside_cond(vmapped.jaxpr)


@pytest.mark.parametrize("name", ["pendulum", "toy-target"])
def test_step_is_traced_once(name):
    env = make(name)
    chex.clear_trace_counter()  # it counts over all parameters of a test

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(state, action):
        return env.step(state, action)

    action = jnp.zeros(env.spec.action_dim)
    state, _ = env.reset(jax.random.key(0))
    starts = [state, single_reset(name)(jax.random.key(1))[0]]
    if name == "pendulum":
        starts.append(env.with_gravity(state, 4.0))
        starts.append(env.with_gravity(state, jnp.asarray(1.0)))
        starts.append(env.from_physics(np.zeros(1), np.zeros(1)))
        starts.append(env.from_physics(jnp.zeros(1), jnp.zeros(1)))
    for state in starts:
        for _ in range(2):
            state, _ = step(state, action)


def test_keys_decide_everything():
    reset, step = vector_reset("pendulum"), vector_step("pendulum")
    action = actions("pendulum")
    a, b, c = (step(reset(jax.random.key(i))[0], action)[1].obs for i in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.any(a == c)


@pytest.mark.long
def test_action_repeat_sums_rewards():
    once, twice = make("pendulum", 1), make("pendulum", 2)
    qpos, qvel = jnp.array([0.1]), jnp.array([0.5])
    action = jnp.array([0.3])
    state, total = once.from_physics(qpos, qvel), 0.0
    for _ in range(2):
        state, timestep = jax.jit(once.step)(state, action)
        total += timestep.reward
    both, timestep = jax.jit(twice.step)(twice.from_physics(qpos, qvel), action)
    np.testing.assert_allclose(both.qpos, state.qpos, rtol=1e-6)
    assert timestep.reward == total == 2.0
    assert both.step_count == state.step_count == 2


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.int32])
def test_any_action_dtype(dtype):
    state, _ = single_reset("pendulum")(jax.random.key(0))
    a, _ = single_step("pendulum")(state, jnp.ones(1, dtype))
    b, _ = single_step("pendulum")(state, jnp.ones(1))
    assert_same(a, b)


def test_wrong_shapes_are_refused():
    env = make("pendulum")
    state, _ = env.reset(jax.random.key(0))
    with pytest.raises(ValueError, match=r"action has shape \(2,\).*needs \(1,\)"):
        env.step(state, jnp.zeros(2))
    with pytest.raises(ValueError, match=r"qpos has shape \(2,\).*needs \(1,\)"):
        env.from_physics(jnp.zeros(2), jnp.zeros(1))
    with pytest.raises(ValueError, match=r"qvel has shape \(3,\).*needs \(1,\)"):
        env.from_physics(jnp.zeros(1), jnp.zeros(3))
    with pytest.raises(ValueError, match="num_envs=0"):
        envs.VectorEnv(env, 0)
