"""Environments of one's own: from a model, by name, from mujoco_playground."""

import dataclasses
import functools
import os
import pathlib
import re
import subprocess
import sys
import types
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs import factories
from envs.mjx import from_mjx as custom
from envs.mjx._mjx import mujoco
from envs.synthetic.toy import Target
from train.config import cli
from train.errors import UserError

# A block on a spring-less rail: position x, force 2 u newtons on 4 kg.
RAIL = """
<mujoco model="rail">
  <option timestep="0.01" gravity="0 0 0"/>
  <worldbody>
    <body>
      <joint name="x" type="slide" axis="1 0 0"/>
      <geom type="box" size="0.1 0.1 0.1" mass="4"/>
    </body>
  </worldbody>
  <actuator><motor joint="x" gear="1" ctrllimited="true" ctrlrange="0 4"/></actuator>
</mujoco>
"""


def observe(model, data):
    return jnp.concatenate([data.qpos, data.qvel])


def reward(model, data):
    return data.qpos[0]


def initial(model, key):
    return jax.random.uniform(key, (model.nq,)), jnp.zeros(model.nv)


@functools.cache
def rail() -> Any:
    return mujoco.MjModel.from_xml_string(RAIL)


def make(*, name="custom", action_repeat=1, **changes):
    arguments: dict[str, Any] = {"observe": observe, "reward": reward} | changes
    return envs.from_mjx(rail(), name=name, action_repeat=action_repeat, **arguments)


@pytest.fixture(autouse=True)
def no_names_left(monkeypatch):
    monkeypatch.setattr(factories, "_FACTORIES", {})


def test_a_model_and_functions_make_an_environment():
    iterations = rail().opt.iterations
    env = make(
        initial=initial,
        terminal=lambda model, data: data.qpos[0] > 0.9,
        control_timestep=0.05,
        episode_steps=8,
        action_repeat=2,
    )
    assert env.spec == envs.EnvSpec(
        name="custom",
        obs_shape=(2,),
        action_dim=1,
        action_repeat=2,
        episode_steps=8,
        control_timestep=0.05,
    )
    assert env.model.opt.iterations == iterations and env.model is not rail()
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    starts = {float(reset(jax.random.key(i))[1].obs[0]) for i in range(5)}
    assert len(starts) == 5 and all(0 <= x < 1 for x in starts)

    # Action 0 is the middle of the control range: 2 N on 4 kg, for 0.1 s.
    state, row = step(env.from_physics(np.zeros(1), np.zeros(1)), jnp.zeros(1))
    np.testing.assert_allclose(row.obs[1], 0.05, rtol=1e-5)
    assert not row.is_terminal and not row.is_last
    for _ in range(3):
        state, row = step(state, -jnp.ones(1))
    assert row.is_last and not row.is_terminal  # its time is over
    assert step(state, jnp.zeros(1))[1].is_first

    state, row = step(env.from_physics(np.ones(1), np.zeros(1)), jnp.zeros(1))
    assert row.is_last and row.is_terminal
    np.testing.assert_allclose(row.reward, 2.0, atol=0.01)
    assert step(state, jnp.zeros(1))[1].is_first


@pytest.mark.long
def test_a_corrupt_step_is_not_terminal():
    env = make(terminal=lambda model, data: jnp.asarray(True))
    state = env.from_physics(np.zeros(1), np.full(1, np.nan))
    _, row = jax.jit(env.step)(state, jnp.zeros(1))
    assert row.is_corrupt and row.is_last and not row.is_terminal


def test_a_model_may_be_a_file(tmp_path):
    (tmp_path / "rail.xml").write_text(RAIL)
    env = envs.from_mjx(tmp_path / "rail.xml", observe=observe, reward=reward)
    assert env.spec.action_dim == 1 and env.spec.control_timestep == 0.01
    with pytest.raises(FileNotFoundError, match=r"nothing\.xml.*no such file"):
        envs.from_mjx(tmp_path / "nothing.xml", observe=observe, reward=reward)


@pytest.mark.long
@pytest.mark.parametrize("long", ["", "x" * 5000])
def test_a_model_may_be_xml_text_or_a_spec(long):
    text = RAIL.replace("</mujoco>", f"<!-- {long} --></mujoco>")
    for model in (text, mujoco.MjSpec.from_string(text)):
        env = envs.from_mjx(model, observe=observe, reward=reward)
        assert env.spec.action_dim == 1 and env.task.xml == "rail"


@pytest.mark.parametrize(
    ("model", "kind", "message"),
    [
        ("<mujoco><joint/></mujoco>", ValueError, "model: MuJoCo cannot load it: "),
        ("x" * 5000, FileNotFoundError, r"'x{100}\.\.\.x{100}': there is no such"),
        ("a\0b", FileNotFoundError, "there is no such file"),
        (None, TypeError, "model is of type NoneType: pass a mujoco.MjModel or MjSpec"),
    ],
)
def test_what_is_no_model_is_named(model, kind, message):
    with pytest.raises(kind, match=message) as caught:
        custom._load(model)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_whatever_mjx_raises_is_one_error_that_names_the_model():
    """Here a touch sensor with a cylinder, of which it looks up a ray in vain."""
    sensor = '<sensor><touch site="s"/></sensor></mujoco>'
    touched = (
        RAIL.replace("</mujoco>", sensor)
        .replace("<geom", '<site name="s" type="cylinder" size=".1 .1"/><geom', 1)
        .replace("</worldbody>", '<geom type="plane" size="1 1 1"/></worldbody>')
    )
    with pytest.raises(ValueError, match="rail: MJX cannot simulate this model: Key"):
        envs.from_mjx(touched, observe=observe, reward=reward)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observe": lambda m, d: d.qpos[0]}, r"observe returns float32\[\], .* axis"),
        ({"reward": lambda m, d: d.qpos}, r"reward returns .* must return \(\)"),
        ({"terminal": lambda m, d: d.qpos > 0}, "terminal returns"),
        ({"initial": lambda m, k: jnp.zeros(1)}, r"initial returns .*\[\(1,\), \(1,\)"),
        (
            {"initial": lambda m, k: {"qpos": m.qpos0, "qvel": np.zeros(m.nv)}},
            "initial returns {'qpos': .*must return a pair",
        ),
        ({"control_timestep": 0.015}, "control_timestep=0.015 must be a multiple"),
        ({"episode_steps": 0}, "episode_steps=0"),
        ({"action_repeat": 3}, "action_repeat=3 must be a positive divisor"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        make(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (RAIL[RAIL.index("  <actuator>") : RAIL.index("</mujoco>")], "", "no actuator"),
        ('ctrllimited="true" ctrlrange="0 4"', "", "must be bounded"),
    ],
)
def test_models_without_bounded_controls_are_refused(old, new, message):
    model = mujoco.MjModel.from_xml_string(RAIL.replace(old, new))
    with pytest.raises(ValueError, match=f"rail: .*{message}"):
        envs.from_mjx(model, observe=observe, reward=reward)


def test_a_registered_name_is_made():
    envs.register("my-rail", make)
    assert envs.registered() == ("my-rail",)
    for name in ("my-rail", "My_Rail"):
        env = envs.make(name, action_repeat=4)
        assert (env.spec.name, env.spec.action_repeat) == ("my-rail", 4)
    with pytest.raises(ValueError, match=r"env='my-rial'.*did you mean 'my-rail'"):
        envs.make("my-rial")
    with pytest.raises(ValueError, match=r"registered before.*replace=True"):
        envs.register("my_rail", make)
    envs.register("my_rail", Target, replace=True)
    assert envs.registered() == ("my_rail",)
    assert isinstance(envs.make("my-rail"), Target)
    envs.register("part", functools.partial(make, reward=lambda m, d: d.qvel[0]))
    assert envs.make("part").spec.name == "part"
    assert envs.canonical_name("walker") == "walker-walk"


@pytest.mark.parametrize(
    ("name", "factory", "message"),
    [
        ("walker-walk", make, "'walker-walk' is taken"),
        ("Walker", make, "taken by 'walker-walk'"),
        ("a:b", make, "use letters"),
        ("", make, "use letters"),
        ("good", lambda: None, "keywords name and action_repeat"),
    ],
)
def test_register_refuses(name, factory, message):
    with pytest.raises(ValueError, match=message):
        envs.register(name, factory)
    assert envs.registered() == ()


@pytest.fixture
def module(monkeypatch):
    """A module that Python can import, with two factories and what is none."""
    found: Any = types.ModuleType("my_robot")
    found.make = Target
    found.wrong = lambda *, name, action_repeat: 3
    found.stubborn = lambda *, name, action_repeat: Target(name=name, action_repeat=1)
    found.number = 3
    monkeypatch.setitem(sys.modules, "my_robot", found)
    return found


def test_a_path_is_made(module):
    env = envs.make("my_robot:make", action_repeat=4)
    assert (env.spec.name, env.spec.action_repeat) == ("my_robot:make", 4)
    config = cli.parse(["--env", "my_robot:make", "--preset", "smoke"], platform="cpu")
    assert config.env == "my_robot:make"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_robot:make", "no module 'no_robot'"),
        ("my_robot:absent", "no attribute 'absent'"),
        ("my_robot:number", "int, which cannot be called"),
        ("my_robot:", "the form is module:attribute"),
        ("my_robot:wrong", "returned int, which is no envs.Env"),
        ("my_robot:stubborn", "asked for action_repeat=2.* with 1"),
    ],
)
def test_a_path_that_leads_nowhere_is_named(module, path, message):
    with pytest.raises(ValueError, match=message) as caught:
        envs.make(path)
    assert f"env='{path}'" in str(caught.value) and "\n" not in str(caught.value)


class Wrong(Target):
    """Rows and states that do not fit, one at a time."""

    def __init__(self, *, name, action_repeat, change):
        super().__init__(name=name, action_repeat=action_repeat)
        self.change = change

    def advance(self, state, action):
        return self.change(*super().advance(state, action))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, r: r, "advance must return a pair of a state and an envs.Timestep"),
        (lambda s, r: (s, s), "advance returns InnerState, not an envs.Timestep"),
        (
            lambda s, r: (s, eqx.tree_at(lambda x: x.reward, r, r.reward[None])),
            r"advance returns a Timestep whose reward is float32\[1\], .*float32\[\]",
        ),
        (
            lambda s, r: (s, dataclasses.replace(r, obs=r.obs.astype(int))),
            r"advance returns a Timestep whose obs is int32\[1\], .*float32\[1\]",
        ),
        (
            lambda s, r: (dataclasses.replace(s, inner=s.inner[None]), r),
            r"advance returns .*\.inner is float32\[1\], not float32\[\]",
        ),
        (
            lambda s, r: (dataclasses.replace(s, inner=s.inner > 0), r),
            "advance returns a state of .* keep each dtype",
        ),
    ],
)
def test_rows_of_a_class_of_ones_own_are_checked(change, message):
    envs.register("wrong", functools.partial(Wrong, change=change))
    with pytest.raises(ValueError, match=f"env='wrong': {message}") as caught:
        envs.make("wrong")
    assert "\n" not in str(caught.value)


def test_the_command_line_names_a_wrong_path():
    with pytest.raises(UserError, match=r"--env no_robot:make: .*no module 'no_robot'"):
        cli.parse(["--env", "no_robot:make"], platform="cpu")


def test_an_error_inside_the_module_is_told_in_full(tmp_path, monkeypatch):
    (tmp_path / "broken_robot.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        envs.make("broken_robot:make")


ROOT = pathlib.Path(__file__).parents[2]


def documented() -> str:
    return (ROOT / "docs" / "environments.md").read_text(encoding="utf-8")


def test_the_documents_table_has_every_task():
    found = []
    for line in documented().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 7 and cells[1].startswith("`"):
            domain = cells[1].strip("`")
            for task in cells[2].split(", "):
                found.append(f"{domain}-{task.strip('*')}")
                if task.startswith("**"):
                    assert envs.canonical_name(domain) == found[-1]
    assert sorted(found) == sorted(envs.TASKS)


@pytest.fixture
def documented_robot(tmp_path, monkeypatch):
    """The folder of the document's own `my_robot.py`."""
    after = documented().partition("<!-- my_robot.py")[2]
    code = re.findall(r"```python\n(.*?)```", after, flags=re.DOTALL)[0]
    (tmp_path / "my_robot.py").write_text(code, encoding="utf-8")
    return tmp_path


def test_the_documents_robot_works(documented_robot, monkeypatch):
    monkeypatch.syspath_prepend(documented_robot)
    monkeypatch.delitem(sys.modules, "my_robot", raising=False)
    env: Any = envs.make("my_robot:make", action_repeat=2)
    sys.modules.pop("my_robot")
    assert env.spec.obs_shape == (3,) and env.n_substeps == 4
    upright = env.from_physics(np.zeros(1), np.zeros(1))
    np.testing.assert_allclose(jax.jit(env.reward)(upright), 1.0, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(env.observe)(upright), [1, 0, 0], atol=1e-6)


@pytest.mark.slow
def test_the_documents_robot_is_trained_on_and_resumed(documented_robot):
    words = ["--env", "my_robot:make", "--preset", "smoke", "--logdir", "run"]
    words += ["--replay-size", "200"]
    for steps in ("400", "800"):
        done = subprocess.run(
            [sys.executable, "-m", "train.main", *words, "--steps", steps],
            capture_output=True,
            text=True,
            cwd=documented_robot,
            env=os.environ | {"PYTHONPATH": f"{ROOT}"},
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert "my_robot:make" in done.stdout
