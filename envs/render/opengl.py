"""MuJoCo's own renderer, for people to look at: larger, with shadows, on the host."""

import warnings
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Num, UInt8

from envs._mjx import MjModel, mujoco
from envs.base import Env
from envs.mjx_env import MjxEnv
from envs.render.pixels import PixelEnv


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
    model.vis.global_.offheight = max(model.vis.global_.offheight, height)
    model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
    try:
        with warnings.catch_warnings():  # GLFW says in several lines what we say in one
            warnings.simplefilter("ignore")
            return mujoco.Renderer(model, height, width)
    except Exception as error:  # each GL library fails in its own way
        raise NoOpenGLError from error


class BodyRenderer:
    """Draws states of an environment, seen by its task's camera.

    Args:
        env: the environment whose model is drawn.
        height, width: of a picture, in pixels.

    Raises:
        NoOpenGLError: MuJoCo finds nothing to draw with.
    """

    def __init__(self, env: MjxEnv, height: int, width: int) -> None:
        self._env = env
        self._renderer = open_renderer(env.model, height, width)
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
        """Give the OpenGL context back."""
        self._renderer.close()
