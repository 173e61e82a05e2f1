"""Random poses of every domain, rendered by the ray caster and by MuJoCo."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt8

from envs import registry
from envs.mjx._mjx import MjModel, mujoco
from envs.render import Renderer
from envs.render.opengl import open_renderer
from envs.render.pose import Pose

DOMAINS = tuple(registry.DOMAINS)


def load(domain: str) -> tuple[MjModel, int]:
    """The model of a domain's default task, and the id of its camera."""
    module = registry.DOMAINS[domain]
    task = module.TASKS[module.DEFAULT]
    model = task.load()
    return model, model.camera(task.camera).id


def random_states(model: MjModel, count: int, *, seed: int = 0) -> list[Any]:
    """Random states, as `mujoco.MjData` after `mj_forward`.

    Limited hinges are uniform within their limits. Unlimited hinges are uniform over
    the circle, except on a body that also has a slide joint: this is a robot's trunk,
    which stays roughly upright. Tendon limits hold.
    """
    rng = np.random.default_rng(seed)
    states = []
    while len(states) < count:
        data = mujoco.MjData(model)
        for joint in range(model.njnt):
            _turn(model, data.qpos, joint, rng)
        mujoco.mj_forward(model, data)
        limited = model.tendon_limited.astype(bool)
        if np.all(data.ten_length[limited] <= model.tendon_range[limited, 1]):
            states.append(data)
    return states


def _turn(model: MjModel, qpos: Any, joint: int, rng: np.random.Generator) -> None:
    kinds = mujoco.mjtJoint
    kind, start = model.jnt_type[joint], model.jnt_qposadr[joint]
    siblings = model.jnt_type[model.jnt_bodyid == model.jnt_bodyid[joint]]
    if kind == kinds.mjJNT_FREE:
        qpos[start : start + 3] += rng.uniform([-2, -2, 0], [2, 2, 0.4])
        turn = [1, 0, 0, 0] + 0.3 * rng.normal(size=4)
        qpos[start + 3 : start + 7] = turn / np.linalg.norm(turn)
    elif model.jnt_limited[joint]:
        qpos[start] = rng.uniform(*model.jnt_range[joint])
    elif kind == kinds.mjJNT_HINGE:
        reach = 0.8 if np.any(siblings == kinds.mjJNT_SLIDE) else np.pi
        qpos[start] = rng.uniform(-reach, reach)
    else:
        qpos[start] += rng.uniform(-0.3, 0.3)


class Reference:
    """MuJoCo's own renderer.

    Args:
        plain: disable shadows and reflections, which are on by default.

    Raises:
        NoOpenGLError: there is no OpenGL.
    """

    def __init__(
        self, model: MjModel, camera: int, size: int, *, plain: bool = False
    ) -> None:
        self._color = open_renderer(model, size, size)
        self._segment = open_renderer(model, size, size)
        self._segment.enable_segmentation_rendering()
        if plain:
            for flag in (
                mujoco.mjtRndFlag.mjRND_SHADOW,
                mujoco.mjtRndFlag.mjRND_REFLECTION,
            ):
                self._color.scene.flags[flag] = 0
        self._camera = camera

    def draw(self, data: Any) -> UInt8[np.ndarray, "size size 3"]:
        """The image of a state."""
        self._color.update_scene(data, camera=self._camera)
        return self._color.render()

    def segment(self, data: Any) -> np.ndarray:
        """Object id and `mujoco.mjtObj` of each pixel, -1 for the sky."""
        self._segment.update_scene(data, camera=self._camera)
        return self._segment.render()

    def close(self) -> None:
        """Free the OpenGL contexts."""
        self._color.close()
        self._segment.close()


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Differences between two renderers on the same poses.

    Attributes:
        overlap: per pose, intersection over union of the pixels that are neither sky
            nor plane.
        labels: share of pixels with the same geom, site or tendon in both.
        difference: mean absolute difference of the images, out of 255.
        body_difference: the same over the reference's pixels of bodies.
        pictures: pairs (reference image, ray caster image).
    """

    overlap: Float[np.ndarray, " poses"]
    labels: float
    difference: float
    body_difference: float
    pictures: list[tuple[np.ndarray, np.ndarray]]


def stack_poses(renderer: Renderer, states: Iterable[Any]) -> Pose:
    """The poses of several states as a batch."""
    poses = [renderer.pose(data) for data in states]
    return jax.tree.map(lambda *rows: jnp.stack(rows), *poses)


def compare(domain: str, count: int, *, size: int = 64) -> Comparison:
    """Render `count` random poses of a domain with both renderers.

    Raises:
        NoOpenGLError: there is no OpenGL.
    """
    model, camera = load(domain)
    reference = Reference(model, camera, size)
    renderer = Renderer(model, camera=camera, size=size)
    states = random_states(model, count)
    poses = stack_poses(renderer, states)
    images = np.asarray(jax.jit(jax.vmap(renderer.draw))(poses))
    numbers = np.asarray(jax.jit(jax.vmap(renderer.segment))(poses))

    overlap, same, difference, on_bodies, pictures = [], [], [], [], []
    for state, image, number in zip(states, images, numbers, strict=True):
        names, theirs = _names(renderer, number), reference.segment(state)
        ours, other = _is_body(model, names), _is_body(model, theirs)
        overlap.append(np.sum(ours & other) / np.sum(ours | other))
        same.append(np.mean(np.all(names == theirs, axis=-1)))
        expected = reference.draw(state)
        gap = np.abs(image.astype(float) - expected)
        difference.append(np.mean(gap))
        on_bodies.append(np.mean(gap[other]))
        pictures.append((expected, image))
    reference.close()
    return Comparison(
        overlap=np.array(overlap),
        labels=float(np.mean(same)),
        difference=float(np.mean(difference)),
        body_difference=float(np.mean(on_bodies)),
        pictures=pictures,
    )


def _names(renderer: Renderer, numbers: np.ndarray) -> np.ndarray:
    """The ray caster's segmentation as (object id, `mujoco.mjtObj`)."""
    kinds = {"geom": "mjOBJ_GEOM", "site": "mjOBJ_SITE", "tendon": "mjOBJ_TENDON"}
    rows = [
        (solid.index, int(mujoco.mjtObj.__members__[kinds[solid.source]]))
        for solid in renderer.scene.solids
    ]
    return np.array([*rows, (-1, -1)])[numbers]  # the last row is number -1, the sky


def _is_body(model: MjModel, names: np.ndarray) -> Bool[np.ndarray, "size size"]:
    index, kind = names[..., 0], names[..., 1]
    (planes,) = np.nonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE)
    plane = (kind == mujoco.mjtObj.mjOBJ_GEOM) & np.isin(index, planes)
    return (index >= 0) & ~plane
