"""What users hand to `from_jax`, `from_mjx` and `PlaygroundEnv`: right, or refused."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import checks
from envs.adapters import timesteps
from envs.mjx._mjx import mujoco

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
        (lambda s: jnp.zeros((64, 64, 4), jnp.uint8), r"image\[\.\.\., :3\]"),
        (lambda s: jnp.zeros((2, 64, 64, 3), jnp.uint8), r"uint8\[2, .*batch axis"),
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

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(state, action):
        return env.step(state, action)

    state, _ = env.reset(jax.random.key(0))
    numbers = [x for x in jax.tree.leaves(state.inner) if x is not state.inner["key"]]
    assert not any(x.weak_type for x in numbers)
    for _ in range(3):
        state, row = step(state, jnp.ones(2))
    assert row.obs.tolist() == [6, 1.5, 1] and row.reward == 5 + 6
    found = {name: x.dtype for name, x in state.inner.items() if x is not None}
    assert found["best"] == found["half"] == found["array"] == jnp.float32
    assert found["steps"] == jnp.int32 and found["count"] == jnp.int8
    # And as the carry of a loop.
    jax.lax.scan(lambda s, _: env.step(s, jnp.ones(2)), state, length=7)


@jax.tree_util.register_pytree_node_class
class Plain:
    """A state of a class without an `==` of its own."""

    def __init__(self, x: Any, count: Any):
        self.x, self.count = x, count

    def tree_flatten(self):
        return (self.x, self.count), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def test_states_of_classes_that_cannot_be_compared():
    env = from_jax(
        initial=lambda key: Plain(jnp.zeros(2), 0),
        step=lambda s, a: Plain(s.x + a, s.count + 0.5),
        observe=lambda s: s.x,
        reward=lambda s: s.count,
        action_repeat=2,
    )
    state, _ = env.reset(jax.random.key(0))
    state, row = env.step(state, jnp.ones(2))
    assert row.obs.tolist() == [2, 2] and row.reward == 0.5 + 1
    timesteps.check("mine", env)
