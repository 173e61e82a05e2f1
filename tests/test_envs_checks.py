"""What users hand to `from_jax`, `from_mjx` and `PlaygroundEnv`: right, or refused."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import checks
from envs._mjx import mujoco
from envs.playground import PlaygroundEnv

RAIL = """
<mujoco model="rail">
  <worldbody>
    <body>
      <joint name="x" type="slide" axis="1 0 0"/>
      <geom size="0.1" mass="1"/>
    </body>
  </worldbody>
  <actuator><motor joint="x" ctrllimited="true" ctrlrange="-1 1"/></actuator>
</mujoco>
"""


def from_jax(**changes: Any) -> Any:
    parts: dict[str, Any] = {
        "initial": lambda key: jnp.zeros(2),
        "step": lambda s, a: s + a,
        "observe": lambda s: s,
        "reward": lambda s: s[0],
        "action_dim": 2,
        "episode_steps": 10,
    }
    return envs.from_jax(**(parts | changes))


def from_mjx(**changes: Any) -> Any:
    parts: dict[str, Any] = {"observe": lambda m, d: d.qpos, "reward": lambda m, d: 0.0}
    return envs.from_mjx(mujoco.MjModel.from_xml_string(RAIL), **(parts | changes))


def refused(make, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (lambda s: {"state": s}, r"observe returns {'state': float32\[2\]}.*one array.*"
            r"jnp\.concatenate"),
        (lambda s: (s, s), r"observe returns \(float32\[2\], .*concatenate"),
        (lambda s: [s[0], s[1]], r"observe returns \[float32\[\], .*concatenate"),
        (lambda s: None, "observe returns None, .*one array"),
        (lambda s: "high", "observe returns 'high': no number and no array"),
        (lambda s: 0.5, r"observe returns float32\[\], .*jnp\.stack"),
        (lambda s: s[:0], r"observe returns float32\[0\], .*at least one entry"),
        (lambda s: s[None], r"observe returns float32\[1, 2\], .*jnp\.ravel"),
        (lambda s: s.astype(int), r"observe returns int32\[2\], .*astype\(jnp\.float"),
        (lambda s: s > 0, r"observe returns bool\[2\], .*astype\(jnp\.float32"),
        (lambda s: s + 1j, r"observe returns complex64\[2\], .*vector of floats"),
        (lambda s: jax.random.key(0), r"observe returns key<fry>\[\], .*vector"),
        (lambda s: jnp.zeros((84, 84, 3), jnp.uint8), r"nearest is \(80, 80, 3\)"),
        (lambda s: jnp.zeros((8, 8, 3), jnp.uint8), r"nearest is \(16, 16, 3\)"),
        (lambda s: jnp.zeros((3, 64, 64), jnp.uint8), r"jnp\.moveaxis\(image, 0, -1\)"),
        (lambda s: jnp.zeros((64, 64), jnp.uint8), r"jnp\.repeat\(image\[\.\.\., None"),
        (lambda s: jnp.zeros((64, 64, 1), jnp.uint8), r"jnp\.repeat\(image, 3"),
        (lambda s: jnp.zeros((64, 64, 3)), r"\(255 \* image\)\.astype\(jnp\.uint8\)"),
        (lambda s: jnp.zeros((64, 64, 3), int), r"\.astype\(jnp\.uint8\)"),
        (lambda s: jnp.zeros((2, 64, 64, 3), jnp.uint8), r"observe returns uint8\[2, "),
    ],
)  # fmt: skip
def test_observations_that_the_networks_cannot_take(seen, said):
    refused(lambda: from_jax(observe=seen), said)


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (lambda m, d: {"q": d.qpos}, r"observe returns {'q': float32\[1\]}.*one array"),
        (lambda m, d: (d.qpos, d.qvel), r"observe returns \(float32.*concatenate"),
        (lambda m, d: None, "observe returns None"),
        (lambda m, d: d.qpos[:0], r"observe returns float32\[0\]"),
        (lambda d: d.qpos, r"observe is called as observe\(model, data\)"),
        (lambda m, d: np.sin(d.qpos), r"observe hands an array to numpy.*jnp"),
        (lambda m, d: d.qpos if d.qpos[0] > 0 else -d.qpos, r"observe uses the value"),
    ],
)
def test_observations_of_a_model_are_checked_as_well(seen, said):
    refused(lambda: from_mjx(observe=seen), said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"reward": lambda s: (s[0], {})},
            r"reward returns \(float32\[\], {}\), .*beside",
        ),
        ({"reward": lambda s: s[:1]}, r"reward returns float32\[1\], .*jnp\.squeeze"),
        ({"reward": lambda s: s}, r"reward returns float32\[2\], .*jnp\.sum"),
        ({"reward": lambda s: None}, "reward returns None"),
        ({"reward": lambda s: s[0] + 1j}, r"reward returns complex64\[\], .*jnp\.real"),
        ({"reward": lambda s, a: s[0]}, r"reward is called as reward\(state\)"),
        ({"reward": lambda s: float(s[0])}, "reward uses the value of an array"),
        ({"terminal": lambda s: s[0]}, r"terminal returns float32\[\], .*done > 0"),
        ({"terminal": lambda s: s > 0}, r"terminal returns bool\[2\], .*jnp\.all"),
        ({"initial": lambda: jnp.zeros(2)}, r"initial is called as initial\(key\)"),
        ({"initial": lambda key: None}, "initial returns None, .* a state"),
        ({"step": lambda s, a: None}, "step returns None, .*it is missing"),
        (
            {"initial": lambda key: {"x": "a"}},
            r"initial returns 'a' at \['x'\]: no num",
        ),
        ({"initial": lambda key: {"x": 10**10}}, r"at \['x'\]: too large for int32"),
        ({"step": lambda s: s}, r"step is called as step\(state, action\)"),
        ({"step": lambda s, a: s[:1]}, r"step returns .*it is float32\[1\], not float"),
        ({"step": lambda s, a: (s, a)}, r"step returns .*\[0\] is new"),
        (
            {"initial": lambda key: jnp.zeros(2, int)},
            r"step returns .*it is float32\[2\], not int32\[2\] \(let it begin as a fl",
        ),
        ({"episode_steps": 10**10}, r"episode_steps=1000.* to 2147483647 .*1_000_000"),
        ({"episode_steps": 0}, "episode_steps=0 must be at least 1"),
        ({"action_repeat": 3}, "action_repeat=3 must be a positive divisor of the 10"),
        ({"action_repeat": 0}, "action_repeat=0 must be a positive divisor"),
        ({"action_dim": 0}, "action_dim=0 must be at least 1"),
        ({"control_timestep": float("nan")}, "control_timestep=nan must be a finite"),
        ({"control_timestep": -1.0}, "control_timestep=-1.0 must be a finite"),
        ({"name": ""}, "name='' must be a line of text"),
        ({"name": "two\nlines"}, r"name='two\\nlines' must be a line of text"),
    ],
)
def test_other_parts_that_do_not_fit(changes, said):
    refused(lambda: from_jax(**changes), said)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (100.0, "steps=100.0 must be an integer from 1"),
        (True, "steps=True must be an integer"),
        ("9", "steps='9' must be an integer"),
        (None, "steps=None must be an integer"),
        (2**31, "steps=2147483648 must be an integer from 1 to 2147483647"),
    ],
)
def test_whole_numbers(value, said):
    refused(lambda: checks.whole("steps", value), said)
    assert checks.whole("steps", np.int64(2**31 - 1)) == 2**31 - 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"obs_shape": (84, 84, 3), "obs_dtype": "uint8"}, r"obs_shape=\(84.*\(80, 80"),
        ({"obs_shape": (3, 3)}, r"obs_shape=\(3, 3\) .*one axis"),
        ({"obs_shape": ()}, r"obs_shape=\(\) .*one axis"),
        ({"obs_dtype": "float64"}, "obs_dtype|dtype must be 'float32'"),
        ({"action_low": 1.0}, "action_low=1.0, action_high=1.0"),
        ({"action_high": float("inf")}, "action_high=inf"),
    ],
)
def test_the_facts_of_a_class_of_ones_own_are_checked(change, said):
    facts: dict[str, Any] = {
        "name": "own",
        "obs_shape": (3,),
        "action_dim": 1,
        "action_repeat": 1,
        "episode_steps": 10,
        "control_timestep": 0.1,
    }
    assert envs.EnvSpec(**facts).is_image is False
    refused(lambda: envs.EnvSpec(**(facts | change)), said)


@pytest.mark.parametrize("limits", [(np.nan, 1.0), (-1.0, np.inf), (1.0, 1.0)])
def test_control_ranges_that_are_none(limits):
    model = mujoco.MjModel.from_xml_string(RAIL)
    model.actuator_ctrlrange[0] = limits
    refused(
        lambda: envs.from_mjx(
            model, observe=lambda m, d: d.qpos, reward=lambda m, d: 0.0
        ),
        "rail: every ctrlrange must be finite",
    )


@pytest.mark.parametrize(
    "reward",
    [
        lambda s: 1,
        lambda s: 1.0,
        lambda s: True,
        lambda s: np.float64(1),
        lambda s: s[0] > -1,
        lambda s: jnp.asarray(1, jnp.int8),
        lambda s: jnp.asarray(1, jnp.bfloat16),
    ],
)
def test_rewards_of_any_kind_of_number(reward):
    env = from_jax(reward=reward, terminal=lambda s: False, action_repeat=2)
    state, _ = env.reset(jax.random.key(0))
    state, row = env.step(state, jnp.zeros(2))
    assert row.reward.dtype == env.reward(state).dtype == jnp.float32
    assert row.reward == 2 and not row.is_terminal


def test_observations_of_shorter_floats_become_float32():
    env = from_jax(observe=lambda s: s.astype(jnp.bfloat16))
    assert env.reset(jax.random.key(0))[1].obs.dtype == jnp.float32


def test_python_numbers_and_weak_types_in_a_state_compile_one_step():
    env = from_jax(
        initial=lambda key: {
            "steps": 0,
            "best": 0,  # becomes a float
            "half": 0.5,
            "on": False,
            "numpy": np.float64(1),
            "array": np.zeros(2),
            "weak": jnp.asarray(3),
            "count": jnp.zeros((), jnp.int8),
            "key": key,
            "x": jnp.zeros(2),
            "none": None,
        },
        step=lambda s, a: (
            s
            | {
                "steps": s["steps"] + 1,
                "best": s["best"] + 0.25,
                "half": 1,  # an integer where a float was
                "on": s["steps"] > 1,
                "array": np.ones(2, int),
                "x": s["x"] + a,
            }
        ),
        observe=lambda s: jnp.stack([s["steps"] / 1, s["best"], s["half"]]),
        reward=lambda s: s["steps"],
        action_repeat=2,
    )
    traces = 0

    @jax.jit
    def step(state, action):
        nonlocal traces
        traces += 1
        return env.step(state, action)

    state, _ = env.reset(jax.random.key(0))
    numbers = [x for x in jax.tree.leaves(state.inner) if x is not state.inner["key"]]
    assert not any(x.weak_type for x in numbers)
    for _ in range(3):
        state, row = step(state, jnp.ones(2))
    assert traces == 1
    assert row.obs.tolist() == [6, 1.5, 1] and row.reward == 5 + 6
    found = {name: x.dtype for name, x in state.inner.items() if x is not None}
    assert found["best"] == found["half"] == found["array"] == jnp.float32
    assert found["steps"] == jnp.int32 and found["count"] == jnp.int8
    # And as the carry of a loop.
    jax.lax.scan(lambda s, _: env.step(s, jnp.ones(2)), state, length=7)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Robot:
    """The state of a mujoco_playground environment."""

    data: Any
    obs: Any
    reward: Any
    done: Any
    info: dict

    def replace(self, **changes):
        return dataclasses.replace(self, **changes)


class Kicked:
    """Keeps Python numbers and an Inf in its state, as robots there do."""

    action_size, dt = np.int64(2), 0.02

    def __init__(self, **changes):
        self.changes = changes

    def reset(self, rng):
        info = {"rng": rng, "step": 0, "kick": jnp.array([-jnp.inf]), "last": 0}
        return Robot(jnp.zeros(2), {"state": jnp.zeros(2)}, 0.0, 0.0, info)

    def step(self, state, action):
        data = state.data + action
        info = state.info | {"step": state.info["step"] + 1, "last": action[0]}
        after = Robot(data, {"state": data}, -jnp.sum(data), data[0] > 3, info)
        return after.replace(**self.changes)


def test_a_robot_with_python_numbers_compiles_one_step():
    env = PlaygroundEnv(Kicked(), name="robot")
    assert env.spec.action_dim == 2 and env.spec.episode_steps == 1000
    step: Any = jax.jit(env.step)
    state, row = jax.jit(env.reset)(jax.random.key(0))
    assert not row.is_corrupt  # its Inf is its own
    for t in range(1, 4):
        state, row = step(state, jnp.ones(2))
        assert row.obs.tolist() == [t, t] and not row.is_corrupt
    assert state.inner.info["step"] == 3 and state.inner.info["last"] == 1.0
    state, row = step(state, jnp.ones(2))
    assert row.is_terminal and row.is_last
    assert step._cache_size() == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": jnp.zeros(3)}, r"step returns .*\.data is float32\[3\], not float"),
        ({"info": {}}, r"step returns .*\.info\['kick'\] is missing, .*and 1 more"),
        ({"obs": jnp.zeros(2)}, r"step returns .*\.obs is new, .*\['state'\] is miss"),
    ],
)
def test_a_robot_whose_state_changes_is_refused(change, said):
    refused(lambda: PlaygroundEnv(Kicked(**change), name="robot"), said)


def bad_at(step: int, bad: float, where: str) -> Any:
    """Counts its steps; in one of them a number is not finite."""

    def spoiled(s, what):
        return jnp.where((s["t"] == step) & (where == what), bad, 0.0)

    return from_jax(
        initial=lambda key: {"t": 0, "hidden": jnp.where(step == 0, bad, 0.0)
                             if where == "state" else 0.0},
        step=lambda s, a: {"t": s["t"] + 1, "hidden":
                           spoiled({"t": s["t"] + 1}, "state")},
        observe=lambda s: jnp.stack([s["t"] + spoiled(s, "obs"), 1.0]),
        reward=lambda s: 1.0 + spoiled(s, "reward"),
        action_repeat=1,
    )  # fmt: skip


@pytest.mark.parametrize("where", ["obs", "reward", "state"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_marked_where_it_leaves(where, bad):
    env = bad_at(2, bad, where)
    step = jax.jit(env.step)
    state, row = env.reset(jax.random.key(0))
    for expected in (False, True, False, False, True):
        state, row = step(state, jnp.zeros(2))
        assert bool(row.is_corrupt) == bool(row.is_last) == expected
        assert np.all(np.isfinite(row.obs)) and np.isfinite(row.reward)
        assert not row.is_terminal and (row.reward == 0) == (expected or row.is_first)
    assert state.corrupt_count == 2


@pytest.mark.parametrize(
    ("where", "bad"), [("obs", np.nan), ("obs", -np.inf), ("state", np.nan)]
)
def test_a_first_row_that_is_not_finite_ends_its_episode(where, bad):
    env = bad_at(0, bad, where)
    for rows in (env, envs.VectorEnv(env, 2)):
        state, row = rows.reset(jax.random.key(0))
        for drawn in range(1, 4):  # each step draws again: no loop inside of one
            assert np.all(row.is_first & row.is_corrupt & row.is_last)
            assert np.all(np.isfinite(row.obs)) and np.all(state.needs_reset)
            assert np.all(state.corrupt_count == drawn)
            state, row = rows.step(state, jnp.zeros((*row.reward.shape, 2)))


def test_observations_too_large_for_float32_are_corrupt():
    with jax.enable_x64(True):
        env = from_jax(observe=lambda s: s + 1e300)
        assert env.reset(jax.random.key(0))[1].is_corrupt


def test_a_model_whose_episodes_begin_with_nan():
    env = from_mjx(initial=lambda m, key: (jnp.full(1, jnp.nan), jnp.zeros(1)))
    state, row = jax.jit(env.reset)(jax.random.key(0))
    assert row.is_corrupt and row.is_first and row.is_last
    assert np.isfinite(row.obs) and np.isfinite(state.qpos)


def test_a_models_observation_that_is_not_finite():
    env = from_mjx(observe=lambda m, d: jnp.arccos(0.5 + d.qpos))
    step = jax.jit(env.step)
    for x, bad in ((0.0, False), (1.0, True)):
        _, row = step(env.from_physics(np.full(1, x), np.zeros(1)), jnp.zeros(1))
        assert bool(row.is_corrupt) == bool(row.is_last) == bad
        assert np.all(np.isfinite(row.obs))


class Careless(type(from_jax())):
    """An environment of one's own that marks nothing."""

    def reset(self, key):
        state, row = super().reset(key)
        return state, dataclasses.replace(row, obs=row.obs * jnp.nan)


def test_rows_of_any_environment_are_marked_where_they_are_collected():
    plain = from_jax()
    fields = [getattr(plain, f.name) for f in dataclasses.fields(plain)]
    state, row = envs.VectorEnv(Careless(*fields), 3).reset(jax.random.key(0))
    assert np.all(row.is_corrupt & row.is_last) and np.all(row.obs == 0)
    assert np.all(state.needs_reset) and state.corrupt_count.tolist() == [1, 1, 1]
