"""An episode as a GIF, drawn by MuJoCo from the states the agent went through."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from envs import Env
from envs.render.opengl import BodyRenderer, NoOpenGLError, body_of
from train.errors import UserError
from train.rollout.player import Poses

FRAMES_PER_SECOND = 25


class Film:
    """Draws episodes of one environment, seen by its task's camera.

    Args:
        size: width and height in pixels.

    Raises:
        UserError: the environment has no MuJoCo model, or nothing can be drawn here.
    """

    def __init__(self, env: Env, size: int) -> None:
        body = body_of(env)
        if body is None:
            raise UserError(
                f"--video: {env.spec.name} has no body that could be drawn; allowed: "
                "runs of the MuJoCo environments"
            )
        self._spec = env.spec
        try:
            self._renderer = BodyRenderer(body, size, size)
        except NoOpenGLError as error:
            raise UserError(f"--video: {error}") from None

    def write(self, poses: Poses, path: Path) -> str:
        """Write an episode to a GIF file that plays in real time.

        Returns:
            What was written, in words.

        Raises:
            UserError: the file cannot be written.
        """
        spec = self._spec
        decision = spec.control_timestep * spec.action_repeat
        stride = max(1, round(1 / (FRAMES_PER_SECOND * decision)))
        frames = self.draw(Poses(poses.qpos[::stride], poses.scene[::stride]))
        try:
            # GIF counts time in hundredths of a second.
            save_gif(frames, path, milliseconds=10 * round(100 * stride * decision))
        except OSError as error:
            raise UserError(
                f"--video {path}: cannot be written ({error.strerror})"
            ) from None
        return f"{path} ({len(frames)} frames, {len(poses.qpos) * decision:g} s)"

    def draw(self, poses: Poses) -> UInt8[np.ndarray, "frames size size 3"]:
        """One picture for each row of the poses."""
        return np.stack([self._renderer(*pose) for pose in zip(*poses, strict=True)])

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
