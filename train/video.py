"""An episode as a GIF, drawn by MuJoCo from the states the agent went through."""

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from envs import Env
from envs._mjx import mujoco
from envs.mjx_env import MjxEnv
from envs.pixels import PixelEnv
from train.errors import UserError

FRAMES_PER_SECOND = 25

# What to do where MuJoCo finds nothing to draw with.
GL_REMEDY = (
    "set MUJOCO_GL=egl (needs a GPU's driver or Mesa's libegl1) or MUJOCO_GL=osmesa "
    "(needs libosmesa6)"
)


class Film:
    """Draws episodes of one environment, seen by its task's camera.

    Args:
        size: width and height in pixels.

    Raises:
        UserError: the environment has no MuJoCo model, or nothing can be drawn here.
    """

    def __init__(self, env: Env, size: int) -> None:
        if isinstance(env, PixelEnv):
            env = env.inner
        if not isinstance(env, MjxEnv):
            raise UserError(
                f"--video: {env.spec.name} has no body that could be drawn; allowed: "
                "runs of the MuJoCo environments"
            )
        self._env = env
        try:
            # GLFW warns, in several lines, of what the error below says in one.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._renderer = mujoco.Renderer(env.model, size, size)
        except Exception:  # each GL library fails in its own way
            raise UserError(
                f"--video: MuJoCo finds no OpenGL to draw with; {GL_REMEDY}"
            ) from None

    def write(self, poses: Float[np.ndarray, "decisions nq"], path: Path) -> str:
        """Write an episode to a GIF file that plays in real time.

        Args:
            poses: generalized positions of the body after each decision.

        Returns:
            What was written, in words.

        Raises:
            UserError: the file cannot be written.
        """
        spec = self._env.spec
        decision = spec.control_timestep * spec.action_repeat
        stride = max(1, round(1 / (FRAMES_PER_SECOND * decision)))
        frames = self.draw(poses[::stride])
        try:
            # GIF counts time in hundredths of a second.
            save_gif(frames, path, milliseconds=10 * round(100 * stride * decision))
        except OSError as error:
            raise UserError(
                f"--video {path}: cannot be written ({error.strerror})"
            ) from None
        return f"{path} ({len(frames)} frames, {len(poses) * decision:g} s)"

    def draw(
        self, qpos: Float[np.ndarray, "frames nq"]
    ) -> UInt8[np.ndarray, "frames size size 3"]:
        """One picture for each vector of generalized positions."""
        model = self._env.model
        data = mujoco.MjData(model)
        camera = self._env.task.camera if model.ncam else -1
        frames = []
        for positions in qpos:
            data.qpos[:] = positions
            mujoco.mj_forward(model, data)
            self._renderer.update_scene(data, camera=camera)
            frames.append(self._renderer.render())
        return np.stack(frames)

    def close(self) -> None:
        """Give the OpenGL context back."""
        self._renderer.close()


def save_gif(
    frames: UInt8[np.ndarray, "frames height width 3"],
    path: Path | BinaryIO,
    *,
    milliseconds: int,
) -> None:
    """Write frames as a GIF that repeats for ever.

    Raises:
        OSError: the file cannot be written.
    """
    # One palette for all: a palette a frame would flicker.
    spread = Image.fromarray(np.concatenate(frames[:: max(1, len(frames) // 8)]))
    palette = spread.quantize(128)
    images = [
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in frames
    ]
    images[0].save(
        path,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        duration=milliseconds,
        loop=0,
    )
