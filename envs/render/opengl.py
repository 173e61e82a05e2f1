"""MuJoCo's own renderer, for people to look at: larger, with shadows, on the host."""

import atexit
import functools
import importlib
import os
import subprocess
import sys
import warnings
import weakref
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Num, UInt8

from envs.base import Env
from envs.mjx._mjx import MjModel, mujoco
from envs.mjx.env import MjxEnv
from envs.render.pixels import PixelEnv
from envs.render.renderer import Renderer

# Draws one picture: what is missing shows only then, and a driver may even crash.
_TRIAL = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><geom size='1'/></worldbody></mujoco>"
)
renderer = mujoco.Renderer(model, 16, 16)
renderer.update_scene(mujoco.MjData(model))
renderer.render()
renderer.close()
"""


@functools.cache
def choose_opengl() -> str:
    """Find an OpenGL where none was chosen and there may be no display.

    With MUJOCO_GL unset, EGL is tried and then OSMesa, each in a process of its own;
    `mujoco.Renderer` takes the first that draws.

    Returns:
        What MuJoCo draws with from now on, if it can: "EGL", "OSMesa", or what was
        chosen or is usual.
    """
    chosen = os.environ.get("MUJOCO_GL")
    if chosen or sys.platform != "linux":
        return chosen or "OpenGL"
    for name, label in (("egl", "EGL"), ("osmesa", "OSMesa")):
        trial = subprocess.run(
            [sys.executable, "-c", _TRIAL],
            env=os.environ | {"MUJOCO_GL": name},
            capture_output=True,
        )
        if trial.returncode == 0:
            found = importlib.import_module(f"mujoco.{name}").GLContext
            # MuJoCo reads MUJOCO_GL while it is imported, and that has been done.
            used = importlib.import_module("mujoco.rendering.classic.gl_context")
            vars(used)["GLContext"] = found
            return label
    return "GLFW"


class NoOpenGLError(RuntimeError):
    """MuJoCo finds nothing to draw with."""

    def __init__(self) -> None:
        super().__init__(
            "MuJoCo finds no OpenGL to draw with: set MUJOCO_GL=egl (needs a GPU's "
            "driver or Mesa's libegl1) or MUJOCO_GL=osmesa (needs libosmesa6) before "
            "Python starts"
        )


def body_of(env: Env) -> MjxEnv | None:
    """The environment that has the MuJoCo model; None where there is none."""
    env = env.inner if isinstance(env, PixelEnv) else env
    return env if isinstance(env, MjxEnv) else None


def open_renderer(model: MjModel, height: int, width: int) -> Any:
    """A `mujoco.Renderer` of any size; the model's buffer is enlarged where needed.

    Raises:
        NoOpenGLError: MuJoCo finds nothing to draw with.
    """
    # The off-screen buffer of a model is 640 × 480 unless its file asks for more.
    choose_opengl()
    model.vis.global_.offheight = max(model.vis.global_.offheight, height)
    model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
    try:
        with warnings.catch_warnings():  # GLFW says in several lines what we say in one
            warnings.simplefilter("ignore")
            return mujoco.Renderer(model, height, width)
    except Exception as error:  # each GL library fails in its own way
        raise NoOpenGLError from error


def _close(renderer: "weakref.ref[BodyRenderer]") -> None:
    alive = renderer()
    if alive is not None:
        alive.close()


class BodyRenderer:
    """Draws states of an environment, seen by its task's camera.

    Args:
        env: the environment whose model is drawn.
        height, width: of a picture, in pixels.

    Attributes:
        name: what draws, in words.

    Raises:
        NoOpenGLError: MuJoCo finds nothing to draw with.
    """

    def __init__(self, env: MjxEnv, height: int, width: int) -> None:
        self._env = env
        self._renderer = open_renderer(env.model, height, width)
        # Before EGL's own exit: what Python deletes later finds MuJoCo's OpenGL gone.
        atexit.register(_close, weakref.ref(self))
        self.name = f"MuJoCo with {choose_opengl()}"
        self._host = mujoco.MjData(env.model)
        self._placed = jax.jit(
            lambda qpos, scene: env.measure(
                env.from_physics(qpos, np.zeros(env.model.nv), scene=scene),
                lambda _, data: (data.geom_xpos, data.site_xpos),
            )
        )

    def __call__(
        self,
        qpos: Num[Array | np.ndarray, " nq"],
        scene: Num[Array | np.ndarray, " nscene"],
    ) -> UInt8[np.ndarray, "height width 3"]:
        """The picture of a state with these positions and scene."""
        model, host = self._env.model, self._host
        host.qpos[:] = qpos
        mujoco.mj_forward(model, host)
        if scene.size:  # a target is where this episode put it
            host.geom_xpos[:], host.site_xpos[:] = self._placed(qpos, scene)
        camera = self._env.task.camera if model.ncam else -1
        self._renderer.update_scene(host, camera=camera)
        return self._renderer.render()

    def close(self) -> None:
        """Give the OpenGL context back; more than once does nothing."""
        self._renderer.close()


class DeviceRenderer:
    """As `BodyRenderer`, drawn by `envs.render`, which needs no OpenGL.

    Args:
        size: height and width of a picture, in pixels.

    Raises:
        ValueError: the model shows something that `envs.render` cannot draw, or has no
            camera.
    """

    name = "this project's own renderer, in JAX"

    def __init__(self, env: MjxEnv, size: int) -> None:
        renderer = Renderer(env.model, camera=env.task.camera, size=size)
        still = np.zeros(env.model.nv)
        self._draw = jax.jit(
            lambda qpos, scene: renderer(
                env.data(env.from_physics(qpos, still, scene=scene))
            )
        )

    def __call__(
        self,
        qpos: Num[Array | np.ndarray, " nq"],
        scene: Num[Array | np.ndarray, " nscene"],
    ) -> UInt8[np.ndarray, "size size 3"]:
        """The picture of a state with these positions and scene."""
        return np.asarray(self._draw(qpos, scene))

    def close(self) -> None:
        """Nothing is held."""


def open_body_renderer(env: MjxEnv, size: int) -> BodyRenderer | DeviceRenderer:
    """MuJoCo's renderer where it finds an OpenGL, this project's own elsewhere.

    Raises:
        ValueError: neither can draw this model here; the text says why.
    """
    try:
        return BodyRenderer(env, size, size)
    except NoOpenGLError as missing:
        try:
            return DeviceRenderer(env, size)
        except ValueError as error:
            raise ValueError(f"{missing}; nor can the own renderer: {error}") from None
