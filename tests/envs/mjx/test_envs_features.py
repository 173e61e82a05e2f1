"""Models that MJX would simulate as others are refused, with feature and remedy."""

import inspect
import re

import pytest
from mujoco.mjx._src import (
    collision_driver,
    collision_primitive,
    constraint,
    derivative,
    forward,
    passive,
    ray,
    sensor,
    smooth,
    solver,
    support,
)

import envs
from envs.mjx._mjx import mjx, mujoco
from envs.mjx.features import _UNUSED, check_features, ignored
from envs.registry import DOMAINS

BASE = """
<mujoco model="slider">
  <option {opt}><flag {flag}/></option>
  <worldbody>
    <geom name="floor" type="plane" size="5 5 .1" {floor}/>
    <body pos="0 0 .095">
      <joint name="x" type="slide" axis="1 0 0" {joint}/>
      <joint type="slide" axis="0 0 1"/>
      <geom name="foot" type="{shape}" size=".1 .1 .1" mass="1" {geom}/>
      <site name="eye" pos="0 0 -.2"/>
    </body>
    {more}
  </worldbody>
  <tendon>{tendon}</tendon>
  <actuator>
    <general name="m" joint="x" gainprm="5" ctrllimited="true" ctrlrange="-1 1" {act}/>
  </actuator>
  <sensor>{sensor}</sensor>
</mujoco>
"""
PLAIN = dict.fromkeys(re.findall(r"\{(\w+)\}", BASE), "") | {"shape": "sphere"}
ROPE = '<spatial><site site="eye"/><site site="roof"/></spatial>'
ROOF = '<site name="roof" pos="0 0 2"/>'
CASES = [
    ({"opt": 'noslip_iterations="10"'}, "noslip_iterations=10: set it to 0"),
    ({"floor": 'surfacevel="1.4 0 0 0 0 0"'}, r"geom_surfacevel=.*geom 'floor'"),
    ({"act": 'delay="0.008" nsample="4"'}, r"actuator_delay=0.008 \(actuator 'm'\)"),
    (
        {"act": 'dyntype="filter" dynprm=".05" actearly="true"'},
        "actuator_actearly=True",
    ),
    (
        {"opt": 'actuatorgroupdisable="2"', "act": 'group="2"'},
        r"actuatorgroupdisable=\[2\]",
    ),
    ({"joint": 'stiffness="3 2 1"'}, r"jnt_stiffnesspoly=\[2.0, 1.0\] \(joint 'x'\)"),
    ({"joint": 'damping="1 .5 .2"'}, r"dof_dampingpoly=\[0.5, 0.2\] \(joint 'x'\)"),
    ({"act": 'damping="2"'}, r"actuator_damping=2.0"),
    ({"act": 'armature="2"'}, r"actuator_armature=2.0"),
    (
        {
            "opt": 'density="1000"',
            "shape": "ellipsoid",
            "geom": 'fluidshape="ellipsoid"',
        },
        r"ellipsoid model of fluids.*\(geom 'foot'\)",
    ),
    (
        {"tendon": '<fixed stiffness="9 5 3"><joint joint="x" coef="1"/></fixed>'},
        "tendon_stiffnesspoly",
    ),
    (
        {"tendon": '<fixed damping="9 5 3"><joint joint="x" coef="1"/></fixed>'},
        "tendon_dampingpoly",
    ),
    ({"flag": 'spring="disable"'}, "mjDSBL_SPRING"),
    ({"flag": 'damper="disable"'}, "mjDSBL_DAMPER"),
    ({"flag": 'sleep="enable"'}, "mjENBL_SLEEP"),
    (
        {
            "sensor": '<contact geom1="foot" data="found dist"/>',
            "more": '<geom type="sphere" size=".1" pos="2 0 0"/>',
        },
        "",
    ),
    (
        {
            "sensor": '<contact name="touch" geom1="foot" geom2="floor" data="dist"/>',
            "more": '<body pos="3 0 0"><joint/><geom size=".1"/></body>',
        },
        r"the geoms that contact sensor .touch. selects.*mindist",
    ),
    (
        {"sensor": '<contact geom1="foot" data="found" cutoff="1"/>'},
        "the cutoff of contact sensor 0",
    ),
    (
        {
            "sensor": '<rangefinder site="eye"/>',
            "more": '<geom name="can" type="cylinder" size=".1 .1" pos="2 0 0"/>',
        },
        r"cylinders.*geom 'can'",
    ),
    (
        {"sensor": '<force site="eye"/>', "tendon": ROPE, "more": ROOF},
        "forces of spatial tendons in sensor 0",
    ),
    ({"sensor": '<actuatorpos actuator="m" interval=".1 0" nsample="2"/>'}, "interval"),
]


def load(**changes):
    return mujoco.MjModel.from_xml_string(BASE.format(**PLAIN | changes))


@pytest.mark.parametrize(("changes", "message"), CASES)
def test_what_mjx_ignores_is_refused(changes, message):
    model = load(**changes)
    if not message:
        assert not list(ignored(model))
        return
    with pytest.raises(
        ValueError, match=f"slider: .*MJX ignores .*{message}"
    ) as caught:
        check_features(model, "slider")
    assert "\n" not in str(caught.value)


def test_from_mjx_refuses():
    with pytest.raises(ValueError, match="noslip_iterations=10: set it to 0"):
        envs.from_mjx(
            load(opt='noslip_iterations="10"'),
            observe=lambda model, data: data.qpos,
            reward=lambda model, data: data.time,
        )


@pytest.mark.filterwarnings("error")
def test_what_mjx_simulates_is_not_refused():
    plain = {
        "opt": 'density="1000" viscosity=".1" o_margin="1" noslip_tolerance="1e-3"',
        "flag": 'spring="disable" damper="disable"',
        "floor": 'rgba="1 0 0 .5" group="3" user="3"',
        "joint": 'stiffness="3" damping="2" armature="1" frictionloss=".1"',
        "geom": 'margin=".01" gap=".001" condim="4"',
        "act": 'biastype="affine" biasprm="0 -1 -2" forcerange="-3 3"',
        "sensor": '<contact geom1="foot" data="found"/><rangefinder site="eye"/>',
    }
    check_features(load(**plain), "slider")
    for task in envs.TASKS:
        domain, name = task.split("-")
        check_features(DOMAINS[domain].TASKS[name].load(), task)


def test_a_field_that_a_later_mujoco_adds_gives_a_warning(monkeypatch):
    """As if this MJX did not carry the friction of joints."""
    fields = [x for x in mjx.Model.fields() if x.name != "dof_frictionloss"]
    monkeypatch.setattr(mjx.Model, "fields", lambda: fields)
    with pytest.warns(UserWarning, match=r"dof_frictionloss=0.3 \(joint 'x'\)"):
        check_features(load(joint='frictionloss=".3"'), "slider")


def test_the_unused_fields_are_unused():
    """And all others that move things are used, by MJX's own source."""
    parts = (
        collision_driver,
        collision_primitive,
        constraint,
        derivative,
        forward,
        passive,
        ray,
        sensor,
        smooth,
        solver,
        support,
    )
    source = "\n".join(inspect.getsource(part) for part in parts)
    unused = {
        field.name
        for field in mjx.Model.fields()
        if re.match("(jnt|dof|tendon|actuator|eq|pair|wrap)_", field.name)
        and not re.search(rf"\b{field.name}\b", source)
    }
    derived = {"dof_M0", "dof_Madr", "dof_simplenum", "dof_treeid", "jnt_bodyid"}
    harmless = {
        "actuator_cranklength",  # of slider-cranks, which it refuses
        "actuator_group",  # see `_options`
        "eq_active0",  # it is in the data
        "pair_gap",  # has no influence on forces in MuJoCo either
        "pair_signature",
    }
    assert unused == set(_UNUSED) | derived | harmless
