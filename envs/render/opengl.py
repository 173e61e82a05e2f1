"""MuJoCo's own renderer, for videos: large images with shadows, drawn on the host."""

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

# Renders one image: only then does a missing library show, and a driver may crash.
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
    """Choose an OpenGL library for MuJoCo, unless MUJOCO_GL is set.

    On Linux there may be no display: EGL is tried and then OSMesa, each in a process
    of its own, and `mujoco.Renderer` uses the first that renders an image.

    Returns:
        The library that MuJoCo uses from now on: the value of MUJOCO_GL, "EGL",
        "OSMesa", or the platform's default. The default may still fail.
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
            # MuJoCo reads MUJOCO_GL on import only, and it is imported already.
            used = importlib.import_module("mujoco.rendering.classic.gl_context")
            vars(used)["GLContext"] = found
            return label
    return "GLFW"


class NoOpenGLError(RuntimeError):
    """MuJoCo finds no OpenGL library."""

    def __init__(self) -> None:
        super().__init__(
            "MuJoCo finds no OpenGL library: set MUJOCO_GL=egl (needs a GPU's "
            "driver or Mesa's libegl1) or MUJOCO_GL=osmesa (needs libosmesa6) before "
            "Python starts"
        )


def body_of(env: Env) -> MjxEnv | None:
    """The `MjxEnv` of an environment with state or pixels; None if it has none."""
    env = env.inner if isinstance(env, PixelEnv) else env
    return env if isinstance(env, MjxEnv) else None


def open_renderer(model: MjModel, height: int, width: int) -> Any:
    """A `mujoco.Renderer` of any size; enlarges the model's off-screen buffer.

    Raises:
        NoOpenGLError: MuJoCo finds no OpenGL library.
    """
    # The off-screen buffer of a model is 640 × 480 unless its file asks for more.
    choose_opengl()
    model.vis.global_.offheight = max(model.vis.global_.offheight, height)
    model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
    try:
        with warnings.catch_warnings():  # GLFW repeats our error, at length
            warnings.simplefilter("ignore")
            return mujoco.Renderer(model, height, width)
    except Exception as error:  # each GL library raises its own type
        raise NoOpenGLError from error


def _close(renderer: "weakref.ref[BodyRenderer]") -> None:
    alive = renderer()
    if alive is not None:
        alive.close()


class HostBody:
    """MuJoCo's own data of an environment, put into states that an agent went through.

    Attributes:
        model, data: MuJoCo's, for its renderer or viewer.
    """

    def __init__(self, env: MjxEnv) -> None:
        self.model, self.data = env.model, mujoco.MjData(env.model)
        self._placed = jax.jit(
            lambda qpos, scene: env.measure(
                env.from_physics(qpos, np.zeros(env.model.nv), scene=scene),
                lambda _, data: (data.geom_xpos, data.site_xpos),
            )
        )

    def place(
        self,
        qpos: Num[Array | np.ndarray, " nq"],
        scene: Num[Array | np.ndarray, " nscene"],
    ) -> None:
        """Set the data to these positions and this scene."""
        self.data.qpos[:] = qpos
        mujoco.mj_forward(self.model, self.data)
        if scene.size:  # the target's position in this episode
            placed = self._placed(qpos, scene)
            self.data.geom_xpos[:], self.data.site_xpos[:] = placed


class BodyRenderer:
    """Renders states of an environment through its task's camera.

    Args:
        env: the environment.
        height, width: size of an image in pixels.

    Attributes:
        name: name of the renderer, for messages.

    Raises:
        NoOpenGLError: MuJoCo finds no OpenGL library.
    """

    def __init__(self, env: MjxEnv, height: int, width: int) -> None:
        self._camera = env.task.camera if env.model.ncam else -1
        self._renderer = open_renderer(env.model, height, width)
        # Runs before EGL's exit handler, after which freeing a renderer would fail.
        atexit.register(_close, weakref.ref(self))
        self.name = f"MuJoCo with {choose_opengl()}"
        self._body = HostBody(env)

    def __call__(
        self,
        qpos: Num[Array | np.ndarray, " nq"],
        scene: Num[Array | np.ndarray, " nscene"],
    ) -> UInt8[np.ndarray, "height width 3"]:
        """The image of a state with these positions and scene."""
        self._body.place(qpos, scene)
        self._renderer.update_scene(self._body.data, camera=self._camera)
        return self._renderer.render()

    def close(self) -> None:
        """Free the OpenGL context; a second call does nothing."""
        self._renderer.close()


class DeviceRenderer:
    """Like `BodyRenderer`, but with `envs.render`, which needs no OpenGL.

    Args:
        env: the environment.
        size: height and width of an image in pixels.

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
        """The image of a state with these positions and scene."""
        return np.asarray(self._draw(qpos, scene))

    def close(self) -> None:
        """There is nothing to free."""


def open_body_renderer(env: MjxEnv, size: int) -> BodyRenderer | DeviceRenderer:
    """MuJoCo's renderer if it finds an OpenGL library, else this project's own.

    Raises:
        ValueError: neither can render this model here; the message says why.
    """
    try:
        return BodyRenderer(env, size, size)
    except NoOpenGLError as missing:
        try:
            return DeviceRenderer(env, size)
        except ValueError as error:
            raise ValueError(
                f"{missing}; this project's renderer fails too: {error}"
            ) from None
