"""What `observe` and `reward` read of a state against MuJoCo's own, field by field."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs
from envs.mjx._mjx import mjx, mujoco
from envs.mjx.env import MjxEnv
from envs.mjx.features import SENSORS as KINDS
from envs.mjx.stages import GIVEN, STAGES, Pipeline, traced
from envs.vector import VectorEnv

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("quick_compiles")]

# Every kind of joint, camera, tendon, transmission and sensor that MJX simulates.
BODIES = """
<mujoco model="all">
  <option timestep="0.004" iterations="100" ls_iterations="50" tolerance="1e-15"
    density="1.2" viscosity="0.01" wind="0.3 0 0" magnetic="0.2 -0.5 0.1"/>
  <size nuserdata="2"/>
  <worldbody>
    <geom name="floor" type="plane" size="5 5 .1"/>
    <light pos="0 0 3" mode="track"/>
    <camera name="fixed" pos="0 -2 1" xyaxes="1 0 0 0 .5 1" resolution="64 48"/>
    <site name="roof" pos=".1 0 1.3"/>
    <body name="ghost" mocap="true" pos="1 .5 .7" quat="1 .2 0 .1"/>
    <body name="ball" pos="0 .1 .595">
      <freejoint/>
      <geom name="ball" size=".1" mass="1.3"/>
      <camera name="com" mode="trackcom" pos="0 -1 0"/>
    </body>
    <body name="box" pos=".7 0 .0995"><freejoint name="box"/>
      <geom name="box" type="box" size=".1 .08 .1" mass=".9"/>
      <site name="pad" type="box" size=".2 .2 .02" pos="0 0 -.1"/>
    </body>
    <body name="rod" pos="-.6 0 .8" gravcomp=".4">
      <joint name="swivel" type="ball" damping=".05" stiffness=".3" pos="0 0 .2"/>
      <geom name="rod" type="capsule" size=".03" fromto="0 0 .2 0 0 -.2" mass=".7"/>
      <body name="slider" pos="0 0 -.2">
        <joint name="slide" type="slide" axis="0 0 1" limited="true" range="-.03 .2"
          frictionloss=".3" armature=".02"/>
        <geom name="slider" size=".04" mass=".4"/>
        <site name="tip" pos=".02 0 -.04" quat="1 .3 .2 0"/>
        <camera name="watch" mode="targetbody" target="ball" pos="0 .2 0"/>
        <body name="hand" pos="0 0 -.1">
          <joint name="wrist" axis="0 1 0" ref=".1" springref=".2" stiffness="1"/>
          <geom name="hand" type="capsule" size=".02" fromto="0 0 0 .15 0 0" mass=".2"/>
          <site name="end" pos=".15 0 0"/>
        </body>
      </body>
    </body>
  </worldbody>
  <tendon>
    <spatial name="rope" stiffness="3" damping=".2" limited="true" range="0 .9">
      <site site="roof"/><site site="tip"/>
    </spatial>
    <fixed name="sum" armature=".1" frictionloss=".1">
      <joint joint="slide" coef=".5"/><joint joint="wrist" coef="-1"/>
    </fixed>
  </tendon>
  <equality>
    <weld body1="ghost" body2="box" active="false"/>
    <joint joint1="wrist" polycoef="0 1 .2 0 0" active="true" solref=".2 1"/>
  </equality>
  <actuator>
    <motor name="motor" joint="wrist" gear="2" ctrllimited="true" ctrlrange="-1 1"/>
    <position name="servo" tendon="sum" kp="4" ctrllimited="true" ctrlrange="-2 1"/>
    <general name="lag" joint="slide" dyntype="filter" dynprm=".05" gainprm="3"
      ctrllimited="true" ctrlrange="-1 1"/>
    <motor name="jet" site="tip" gear="0 0 1 0 .1 0" ctrllimited="true"
      ctrlrange="-1 1"/>
  </actuator>
  <sensor>
"""
FRAMES = [
    f'objtype="{kind}" objname="{name}"' + reference
    for kind, name in (
        ("body", "box"),
        ("xbody", "hand"),
        ("geom", "rod"),
        ("site", "tip"),
        ("camera", "watch"),
    )
    for reference in ("", ' reftype="camera" refname="fixed"')
    if not reference or kind in ("site", "camera")
]
PLAIN_FRAMES = [frame for frame in FRAMES if "ref" not in frame]
SENSORS = {
    "magnetometer": ['site="tip"'],
    "camprojection": ['site="end" camera="fixed"', 'site="roof" camera="watch"'],
    "jointpos": ['joint="slide"', 'joint="wrist"'],
    "tendonpos": ['tendon="rope"', 'tendon="sum"'],
    "actuatorpos": ['actuator="motor"', 'actuator="servo"', 'actuator="jet"'],
    "ballquat": ['joint="swivel"'],
    "framepos": FRAMES,
    "framexaxis": FRAMES,
    "frameyaxis": FRAMES,
    "framezaxis": FRAMES,
    "framequat": FRAMES,
    "subtreecom": ['body="rod"'],
    "clock": [""],
    "velocimeter": ['site="tip"'],
    "gyro": ['site="tip"'],
    "jointvel": ['joint="slide"'],
    "tendonvel": ['tendon="rope"', 'tendon="sum"'],
    "actuatorvel": ['actuator="servo"', 'actuator="jet"'],
    "ballangvel": ['joint="swivel"'],
    "framelinvel": FRAMES,
    "frameangvel": FRAMES,
    "subtreelinvel": ['body="rod"', 'body="box"'],
    "subtreeangmom": ['body="rod"', 'body="box"'],
    "touch": ['site="pad"'],
    "contact": [
        'geom1="floor" geom2="box" num="4" reduce="mindist" data="found dist pos"',
        'geom1="box" num="1" reduce="mindist" data="found"',
        'geom1="floor" geom2="box" reduce="maxforce" data="found force"',
    ],
    "accelerometer": ['site="tip"'],
    "actuatorfrc": ['actuator="servo"', 'actuator="lag"'],
    "jointactuatorfrc": ['joint="wrist"'],
    "tendonactuatorfrc": ['tendon="sum"'],
    "framelinacc": PLAIN_FRAMES,
    "frameangacc": PLAIN_FRAMES,
}
ALL = (
    BODIES
    + "\n".join(f"<{kind} {args}/>" for kind, some in SENSORS.items() for args in some)
    + "</sensor></mujoco>"
)
# What the model above cannot have: no constraint at all, forces between bodies, rays.
FREE = """
<mujoco model="free">
  <option timestep="0.004" integrator="implicitfast"/>
  <worldbody>
    <geom type="plane" size="5 5 .1" contype="0" conaffinity="0"/>
    <body pos="0 0 1"><joint name="a" axis="0 1 0" damping=".3"/>
      <geom type="capsule" size=".03" fromto="0 0 0 0 0 -.4" mass="1"/>
      <site name="joint"/>
      <body pos="0 0 -.4"><joint type="ball"/>
        <geom size=".05" mass=".4" pos=".1 0 -.1"/>
        <site name="eye" pos="0 0 -.2" euler="180 0 0"/></body></body>
  </worldbody>
  <actuator>
    <position joint="a" kp="5" kv=".2" ctrllimited="true" ctrlrange="-.5 1"/>
  </actuator>
  <sensor>
    <force site="joint"/><torque site="joint"/><torque site="eye"/>
    <accelerometer site="eye"/><rangefinder site="eye"/><actuatorfrc actuator="servo"/>
  </sensor>
</mujoco>
""".replace("<position ", '<position name="servo" ')
XML = {"all": ALL, "free": FREE}


@pytest.fixture(scope="module", autouse=True)
def float64():
    # jax keeps the constants inside mjx in the precision that used them first.
    jax.clear_caches()
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        yield
    for kept in (env, states):  # they hold numbers of float64
        kept.cache_clear()
    jax.clear_caches()


@functools.cache
def model(which):
    return mujoco.MjModel.from_xml_string(XML[which])


@functools.cache
def env(which) -> MjxEnv:
    return envs.from_mjx(
        model(which),
        observe=lambda model, data: data.sensordata,
        reward=lambda model, data: data.time,
        control_timestep=0.008,
        action_repeat=2,
    )


def forward(model, data):
    """All that MuJoCo computes of a state; a few fields only when it is asked."""
    mujoco.mj_forward(model, data)
    mujoco.mj_rnePostConstraint(model, data)
    mujoco.mj_subtreeVel(model, data)
    return copy.copy(data)


@functools.cache
def states(which):
    """Data of a state and of the one a decision later: ours, and MuJoCo's."""
    m = model(which)
    random = np.random.default_rng(0)
    qpos = m.qpos0.copy()
    mujoco.mj_integratePos(m, qpos, 0.1 * random.normal(size=m.nv), 0.3)
    qvel = 0.3 * random.normal(size=m.nv)
    if which == "all":  # each corner of the box as deep as no other
        place = m.joint("box").qposadr[0]
        qpos[place : place + 7] = [0.7, 0, 0.0995, 1, 0.002, 0.005, 0.1]
    else:  # what is no unit quaternion stays as it is, in both
        qpos[1:] *= 1.5
    act = np.full(m.na, 0.2)
    action = np.array([0.3, -0.4, 0.8, -0.6])[: m.nu]

    start = env(which).from_physics(qpos, qvel, act)
    after, row = jax.jit(env(which).advance)(start, action)
    ours = {"start": env(which).data(start), "step": env(which).data(after)}

    data = mujoco.MjData(m)
    data.qpos[:], data.qvel[:], data.act[:] = qpos, qvel, act
    theirs = {"start": forward(m, data)}
    low, high = m.actuator_ctrlrange.T
    data.ctrl[:] = (low + high) / 2 + action * (high - low) / 2
    mujoco.mj_step(m, data, 4)
    theirs["step"] = forward(m, data)
    return ours, theirs, row


CASES = [
    pytest.param("all", "start", marks=pytest.mark.slow),
    pytest.param("all", "step", marks=pytest.mark.slow),
    ("free", "start"),
    ("free", "step"),
]
PUBLIC = [field.name for field in mjx.Data.fields() if field.name != "_impl"]
_OWN = """
    ten_velocity actuator_velocity cacc cfrc_int cfrc_ext subtree_linvel subtree_angmom
    cinert crb
"""
OWN = _OWN.split()


@pytest.mark.parametrize(("which", "when"), CASES)
def test_every_sensor(which, when):
    ours, theirs, _ = states(which)
    m = model(which)
    wrong = []
    for i in range(m.nsensor):
        part = slice(m.sensor_adr[i], m.sensor_adr[i] + m.sensor_dim[i])
        got, want = ours[when].sensordata[part], theirs[when].sensordata[part]
        if not np.allclose(got, want, rtol=1e-5, atol=1e-5):
            wrong.append((mujoco.mjtSensor(m.sensor_type[i]).name, i, got, want))
    assert not wrong, wrong


@pytest.mark.parametrize("field", [*PUBLIC, *OWN])
@pytest.mark.parametrize(("which", "when"), CASES)
def test_every_field(which, when, field):
    ours, theirs, _ = states(which)
    data = ours[when] if field in PUBLIC else ours[when]._impl
    value = getattr(data, field)
    unknown = env(which)._simulator.pipeline.unknown
    if field in unknown:
        with pytest.raises(ValueError, match=f"data.{field} cannot be read"):
            _ = value + 1
        return
    np.testing.assert_allclose(
        np.ravel(value), np.ravel(getattr(theirs[when], field)), rtol=1e-5, atol=1e-5
    )


def test_a_row_shows_the_state_it_ends_in():
    _, theirs, row = states("free")
    np.testing.assert_allclose(row.obs, theirs["step"].sensordata, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(row.reward, 0.008 + 0.016, rtol=1e-6)  # time, twice


def test_rows_observe_the_time_of_their_state_over_resets():
    env = envs.from_mjx(
        model("free"),
        observe=lambda model, data: jnp.atleast_1d(data.time),
        reward=lambda model, data: 0.0,
        action_repeat=2,
        episode_steps=4,
    )
    batch = VectorEnv(env, 2)
    state, row = batch.reset(jax.random.key(0))
    seen = [row.obs]
    step = jax.jit(batch.step)
    for _ in range(4):
        state, row = step(state, jnp.zeros((2, env.spec.action_dim)))
        seen.append(row.obs)
        shown = jax.vmap(env.observe)(state)
        np.testing.assert_allclose(row.obs, shown, rtol=1e-6)
    times = 0.004 * np.array([0, 2, 4, 0, 2])
    np.testing.assert_allclose(
        np.stack(seen)[..., 0], times[:, None] * np.ones(2), rtol=1e-6
    )


def test_the_sensors_are_those_of_mjx():
    tested = {int(kind) for which in XML for kind in model(which).sensor_type}
    assert {mujoco.mjtSensor(x).name.removeprefix("mjSENS_") for x in tested} == KINDS


def test_a_stage_needs_what_it_reads():
    """The table of stages against what each of them reads."""
    m = mjx.put_model(model("all"))
    data = mjx.make_data(model("all"))
    pipeline = Pipeline.of(m, data, forces=True)
    assert pipeline.sensors.keys() == {"sensor_pos", "sensor_vel", "sensor_acc"}
    for name in STAGES.keys() - pipeline.sensors.keys():
        stage = STAGES[name]
        _, reads = traced(
            lambda data, stage=stage: outputs(stage.run(m, data), stage.fields), data
        )
        before = pipeline.stages(stage.fields - pipeline.unknown.keys())
        provided = GIVEN | {x for other in before for x in STAGES[other].fields}
        # The solver starts from a guess.
        assert reads <= provided | {"qacc_warmstart"}, (name, reads - provided)


def outputs(data, fields):
    return [getattr(data if x in PUBLIC else data._impl, x) for x in fields]


def test_what_cannot_be_computed_raises():
    for field in ("qfrc_inverse", "qacc_warmstart", "qfrc_fluid"):
        with pytest.raises(ValueError, match=f"data.{field} cannot be read: .*"):
            envs.from_mjx(
                model("free"),
                observe=lambda model, data, x=field: getattr(data, x),
                reward=lambda model, data: data.time,
            )
    data = env("free").data(env("free").from_physics(np.ones(5), np.ones(4)))
    for use in (jnp.asarray, np.asarray, float, lambda x: x[0], lambda x: 2 * x):
        with pytest.raises(ValueError, match=r"inverse dynamics: call `mjx\.inverse`"):
            use(data.qfrc_inverse)


def test_only_what_is_read_is_computed():
    pipeline = env("free")._simulator.pipeline
    assert pipeline.stages({"qpos", "time"}) == []
    assert pipeline.stages({"site_xpos"}) == ["kinematics"]
    assert "solve" not in pipeline.stages({"qfrc_bias", "actuator_length"})
    assert "solve" in pipeline.stages({"sensordata"})  # of forces
    walker = envs.make("walker-walk")
    assert isinstance(walker, MjxEnv)
    _, reads = traced(
        lambda data: walker.task.observe(walker.model, data),
        walker._simulator.template,
    )
    assert walker._simulator.pipeline.stages(reads) == ["kinematics"]
