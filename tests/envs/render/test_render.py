"""The ray caster against MuJoCo: its rays, its cameras, its renderer."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.environments.render import scenes as render_scenes
from envs.mjx._mjx import mjx, mujoco
from envs.render import Renderer
from envs.render.opengl import NoOpenGLError
from envs.render.pose import carried
from envs.render.read_model import read_scene
from envs.render.tendon import hanging

# Where there is no OpenGL, what MuJoCo began to open cannot close itself again.
needs_opengl = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <function GLContext:"
    "pytest.PytestUnraisableExceptionWarning"
)

SHAPES = """
<mujoco>
  <visual><headlight ambient=".2 .2 .2" diffuse=".6 .6 .6"/></visual>
  <asset>
    <texture name="grid" type="2d" builtin="checker" rgb1=".1 .2 .3" rgb2=".8 .7 .6"
      width="60" height="60" mark="edge" markrgb="1 1 1"/>
    <material name="grid" texture="grid" texrepeat="1 2" texuniform="true"/>
    <texture name="flat" type="2d" builtin="gradient" rgb1="1 1 1" rgb2="0 0 0"
      width="60" height="60"/>
    <material name="flat" texture="flat"/>
  </asset>
  <worldbody>
    <light pos="1 -2 5" dir="-.2 .4 -1"/>
    <light pos="0 0 3" dir="1 0 -1" directional="true" diffuse=".2 .2 .2"/>
    <camera name="front" pos="0 -6 2" xyaxes="1 0 0 0 .3 1"/>
    <camera name="above" pos=".1 .2 7"/>
    <geom name="floor" type="plane" size="3 2 .1" material="grid"/>
    <body pos="-1.5 0 1"><joint type="ball"/>
      <geom name="sphere" type="sphere" size=".4" rgba=".9 .1 .1 1"/>
      <geom name="capsule" type="capsule" size=".2 .5" pos="0 0 .9" rgba=".1 .9 .1 1"/>
    </body>
    <body pos="0 .5 1.2"><joint type="ball"/>
      <geom name="ellipsoid" type="ellipsoid" size=".6 .3 .4" rgba=".1 .1 .9 1"/>
      <site name="one" pos=".6 0 0" group="4"/>
    </body>
    <body pos="1.6 0 1.2"><joint type="ball"/>
      <geom name="cylinder" type="cylinder" size=".3 .4" pos="0 0 -.6" rgba="1 1 0 1"/>
      <geom name="box" type="box" size=".3 .5 .2" pos="0 0 .4" rgba="0 1 1 1"/>
      <geom name="other" type="box" size=".3 .5 .2" group="3"/>
      <site name="two" pos="-.4 0 .4" group="4"/>
    </body>
  </worldbody>
  <tendon>
    <spatial name="cord" limited="true" range="0 2" width=".05" group="5">
      <site site="one"/><site site="two"/>
    </spatial>
  </tendon>
</mujoco>
"""


def turned(xml, seed):
    """The model, and a state with its joints and bodies turned at random."""
    model = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(model)
    turns = np.random.default_rng(seed).normal(size=model.nv)
    mujoco.mj_integratePos(model, data.qpos, turns, 1.0)
    mujoco.mj_forward(model, data)
    return model, data


def traced(model, data, camera, size):
    """What MuJoCo's own rays meet: number of the geom and depth, or -1."""
    half = np.tan(np.deg2rad(model.cam_fovy[camera]) / 2)
    turn = data.cam_xmat[camera].reshape(3, 3)
    numbers, depths = np.full((2, size, size), -1.0)
    groups = np.array([1, 1, 1, 0, 0, 0], np.uint8)
    for row in range(size):
        for column in range(size):
            x = (2 * (column + 0.5) / size - 1) * half
            y = (1 - 2 * (row + 0.5) / size) * half
            found = np.array([-1], np.int32)
            depths[row, column] = mujoco.mj_ray(
                model,
                data,
                data.cam_xpos[camera],
                turn @ [x, y, -1.0],
                groups,
                1,
                -1,
                found,
            )
            numbers[row, column] = found[0]
    return numbers, depths


@pytest.mark.parametrize("camera", [0, 1])
def test_rays_meet_what_mujocos_rays_meet(camera):
    size = 40
    model, data = turned(SHAPES, seed=camera)
    renderer = Renderer(model, camera=camera, size=size)
    ours = np.asarray(jax.jit(renderer.segment)(renderer.pose(data)))
    index = np.array([s.index for s in renderer.scene.solids] + [-1])
    expected, _ = traced(model, data, camera, size)
    assert len(np.unique(expected)) == 7  # all shapes and the sky are in the picture
    np.testing.assert_array_equal(index[ours], expected)


def test_color_of_plain_surfaces_is_lamberts_law():
    # Only the light at the camera, straight onto a box, a wall and nothing.
    xml = """
    <mujoco>
      <visual><headlight ambient=".1 .2 .3" diffuse=".5 .5 .5"/></visual>
      <worldbody>
        <camera pos="0 0 5"/>
        <geom type="box" size="1 1 1" rgba=".8 .4 .2 1" euler="0 30 0"/>
      </worldbody>
    </mujoco>"""
    model, data = turned(xml, seed=0)
    picture = np.asarray(Renderer(model, size=9)(data))
    light = np.array([0.1, 0.2, 0.3]) + 0.5 * np.cos(np.pi / 6)
    expected = 255 * np.array([0.8, 0.4, 0.2]) * light
    np.testing.assert_allclose(picture[4, 4], expected, atol=0.51)
    np.testing.assert_array_equal(picture[0, 0], 0)  # the model has no sky


@pytest.mark.parametrize("tint", [(1.0, 1.0, 1.0), (1.0, 0.4, 0.2)])
def test_floor_shows_the_texture(tint):
    model, data = turned(SHAPES, seed=0)
    if tint != (1.0, 1.0, 1.0):  # its own colour comes before the material's
        model.mat_rgba[model.geom("floor").matid, :3] = 0.1
        model.geom("floor").rgba[:3] = tint
    model.vis.headlight.ambient[:] = 1.0  # full light, whatever the angle
    model.light_active[:] = 0
    size = 128
    renderer = Renderer(model, camera="above", size=size, samples=1)
    pose = renderer.pose(data)
    picture, seen = np.asarray(renderer.draw(pose)), np.asarray(renderer.segment(pose))
    half = np.tan(np.deg2rad(model.cam_fovy[1]) / 2)
    line = (2 * (np.arange(size) + 0.5) / size - 1) * half * data.cam_xpos[1, 2]
    x, y = np.meshgrid(line + data.cam_xpos[1, 0], data.cam_xpos[1, 1] - line)
    # MuJoCo: one texture in 2 m over `texrepeat`, from the corner at -x and +y.
    u, v = (x + 3) / 2, (2 - y) / 2 * 2
    texture = model.tex_data[: 60 * 60 * 3].reshape(60, 60, 3)
    expected = texture[(v % 1 * 60).astype(int), (u % 1 * 60).astype(int)] * tint
    edge = lambda w: np.abs((2 * w + 0.5) % 1 - 0.5) < 0.2
    inside = (seen == 0) & ~edge(u) & ~edge(v)
    assert np.sum(inside) > 1000
    np.testing.assert_allclose(
        picture[inside].astype(int), expected[inside].astype(int), atol=2
    )


MOUNTS = """
<mujoco>
  <worldbody>
    <body name="target" pos="1 2 .5"><joint type="free"/><geom size=".1" pos=".2 0 0"/>
    </body>
    <body pos="-1 0 2"><joint type="free"/><geom size=".2" pos="0 .3 0"/>
      {}
    </body>
  </worldbody>
</mujoco>"""
MODES = ("fixed", "track", "trackcom", "targetbody", "targetbodycom")


def test_cameras_and_lights_follow_as_in_mujoco():
    mounted = ""
    for mode in MODES:
        rest = f'pos=".3 -1 .4" mode="{mode}" target="target"/>'
        mounted += f'<camera euler="30 10 0" {rest}<light dir=".1 .2 -1" {rest}'
    model, data = turned(MOUNTS.format(mounted), seed=1)
    put = mjx.put_model(model)
    moved = mjx.make_data(put).replace(qpos=jnp.asarray(data.qpos))
    with jax.numpy_rank_promotion("allow"):
        moved = jax.jit(lambda d: mjx.com_pos(put, mjx.kinematics(put, d)))(moved)
    for number in range(len(MODES)):
        scene = read_scene(model, number, (0,))
        for source in (data, moved):
            place, turn = carried(scene.camera, source)
            expected = data.cam_xmat[number].reshape(3, 3)
            np.testing.assert_allclose(place, data.cam_xpos[number], atol=2e-6)
            np.testing.assert_allclose(turn, expected, atol=2e-6)
            place, turn = carried(scene.lights[number].mount, source)
            np.testing.assert_allclose(place, data.light_xpos[number], atol=2e-6)
            np.testing.assert_allclose(turn[:, 2], data.light_xdir[number], atol=2e-6)


FEW = """
<mujoco>
  <worldbody>
    <light pos="1 -2 5" dir="-.2 .4 -1"/>
    <camera pos="0 -4 1" xyaxes="1 0 0 0 0 1"/>
    <geom type="plane" size="3 3 .1"/>
    <body pos="0 0 1"><joint type="ball"/><geom type="box" size=".5 .3 .2"/></body>
  </worldbody>
</mujoco>
"""


def test_same_picture_under_jit_vmap_scan_and_x64():
    model = mujoco.MjModel.from_xml_string(FEW)
    states = [turned(FEW, seed=n)[1] for n in range(2)]
    renderer = Renderer(model, size=16)
    poses = render_scenes.stack_poses(renderer, states)
    alone = np.stack([jax.jit(renderer.draw)(renderer.pose(s)) for s in states])
    assert alone.shape == (2, 16, 16, 3)
    assert alone.dtype == np.uint8
    batch = jax.jit(jax.vmap(renderer.draw))(poses)
    _, scanned = jax.lax.scan(lambda _, p: (None, renderer.draw(p)), None, poses)
    with jax.enable_x64(True):
        double = jax.vmap(renderer.draw)(poses)
    for other in (batch, scanned, double):
        assert np.max(np.abs(alone.astype(int) - np.asarray(other, int))) <= 1
    assert np.mean(alone[0] != alone[1]) > 0.1  # the states differ


def test_pose_is_float32_in_every_precision():
    model, data = turned(SHAPES, seed=0)
    renderer = Renderer(model, groups=(0, 5))  # with the cord
    with jax.enable_x64(True):
        pose = renderer.pose(data)
    assert {leaf.dtype for leaf in jax.tree.leaves(pose)} == {np.dtype(np.float32)}
    assert len(pose.position) == len(renderer.scene.solids) == 6 + 12


@pytest.mark.parametrize(
    "end", [(0.4, 0.0, 0.3), (-0.7, 0.2, -0.6), (0.0, 0.0, -0.2), (0.9, 0.3, 0.3)]
)
def test_cord_hangs_between_its_ends(end):
    length, start = 1.0, np.array([0.1, 0.2, 0.3])
    ends = jnp.asarray(start), jnp.asarray(start + end)
    points = np.asarray(hanging(*ends, length, count=200))
    np.testing.assert_allclose(points[0], start, atol=1e-5)
    np.testing.assert_allclose(points[-1], start + end, atol=1e-3)
    steps = np.diff(points, axis=0)
    total = np.sum(np.linalg.norm(steps, axis=1))
    assert total == pytest.approx(length, abs=0.01)
    # A chain is in balance if the horizontal force is the same everywhere, and the
    # slope grows by the weight below: slope against arc length is a straight line.
    across = np.linalg.norm(steps[:, :2], axis=1)
    if np.linalg.norm(end[:2]) > 0:
        slope = steps[:, 2] / across
        assert np.max(np.abs(np.diff(slope, 2))) < 0.02 * np.ptp(slope)


def test_taut_cord_is_straight():
    start, end = jnp.zeros(3), jnp.asarray([1.0, 0.0, 0.5])
    points = hanging(start, end, 1.0, count=5)
    np.testing.assert_allclose(points, np.linspace(start, end, 5), atol=1e-6)


def test_errors():
    model = mujoco.MjModel.from_xml_string(SHAPES)
    with pytest.raises(ValueError, match=r"camera='side'.*'front', 'above'"):
        Renderer(model, camera="side")
    with pytest.raises(ValueError, match=r"camera=2 is not .* below 2"):
        Renderer(model, camera=2)
    with pytest.raises(ValueError, match="size=0"):
        Renderer(model, size=0)
    with pytest.raises(ValueError, match="samples=0"):
        Renderer(model, samples=0)
    with pytest.raises(ValueError, match="nothing of the model"):
        Renderer(model, groups=(2,))
    model.geom("floor").matid = 1
    with pytest.raises(ValueError, match=r"'flat' is no checkerboard"):
        Renderer(model)
    model.geom("sphere").rgba[3] = 0.5
    model.geom("floor").matid = 0
    with pytest.raises(ValueError, match=r"'sphere' is transparent"):
        Renderer(model)
    model.geom("sphere").rgba[3] = 0  # hidden
    assert len(Renderer(model).scene.solids) == 6 - 1
    hilly = mujoco.MjModel.from_xml_string(
        SHAPES.replace('type="sphere" size=".4"', 'type="sdf" mesh="m"')
        .replace("<asset>", '<asset><mesh name="m" vertex="0 0 0 1 0 0 0 1 0 0 0 1"/>')
        .replace('type="sdf"', 'type="mesh"')
    )
    with pytest.raises(ValueError, match=r"'sphere' has a shape that cannot be drawn"):
        Renderer(hilly)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name="front"', 'name="front" projection="orthographic"', "'front' is ortho"),
        ('name="sphere"', 'name="sphere" material="grid"', "on planes only"),
        (r"<camera[^>]*>", "", "the model has no camera: put a <camera>"),
    ],
)
def test_models_that_would_be_drawn_wrongly(old, new, said):
    xml, count = re.subn(old, new, SHAPES)
    assert count
    with pytest.raises(ValueError, match=said):
        Renderer(mujoco.MjModel.from_xml_string(xml))


@functools.cache
def compared(domain, count):
    try:
        return render_scenes.compare(domain, count)
    except NoOpenGLError as error:
        return str(error)


def comparison(domain, count):
    found = compared(domain, count)
    if isinstance(found, str):
        pytest.skip(found)
    return found


def check(domain, found):
    # The outlines are of some 100 pixels where bodies are thin, so that one pose may be
    # a few pixels off; MuJoCo's round shapes have 28 corners.
    assert np.mean(found.overlap) >= 0.95
    assert np.min(found.overlap) >= 0.9
    assert found.labels >= 0.997
    # Of 255, over the whole picture and over the bodies; what is left of the first
    # is MuJoCo's shadows, reflections and stars, of the second edges and highlights.
    assert found.difference <= 6
    assert found.body_difference <= 25


@pytest.mark.long
@needs_opengl
@pytest.mark.parametrize("domain", ["cartpole"])
def test_agrees_with_mujocos_renderer(domain):
    check(domain, comparison(domain, 4))


@needs_opengl
@pytest.mark.slow
@pytest.mark.parametrize("domain", render_scenes.DOMAINS)
def test_agrees_with_mujocos_renderer_in_every_domain(domain):
    check(domain, comparison(domain, 20))


@needs_opengl
def test_comparison_notices_another_pose(monkeypatch):
    """The check above can fail: poses that are off by one do not overlap."""
    comparison("cartpole", 4)  # skips where there is nothing to compare with
    real = render_scenes.stack_poses
    monkeypatch.setattr(
        render_scenes, "stack_poses", lambda r, s: real(r, [*s[1:], s[0]])
    )
    assert np.mean(render_scenes.compare("cartpole", 4).overlap) < 0.9
