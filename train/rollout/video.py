"""An episode as a GIF, drawn from the states the agent went through."""

import functools
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from envs import Env
from envs.mjx.env import MjxEnv
from envs.render.opengl import (
    BodyRenderer,
    DeviceRenderer,
    body_of,
    open_body_renderer,
)
from train.errors import UserError
from train.rollout.player import Poses

FRAMES_PER_SECOND = 25


class Film:
    """Draws episodes of one environment, seen by its task's camera.

    Args:
        size: width and height in pixels.

    Raises:
        UserError: the environment has no MuJoCo model.
    """

    def __init__(self, env: Env, size: int) -> None:
        self._body, self._size = drawable(env, "--video"), size
        self._spec = env.spec

    @functools.cached_property
    def _renderer(self) -> BodyRenderer | DeviceRenderer:
        """Opened for the first picture: episodes are played before."""
        return open_body_renderer(self._body, self._size)

    def write(self, poses: Poses, path: Path) -> str:
        """Write an episode to a GIF file that plays in real time.

        Returns:
            What was written and what drew it, in words.

        Raises:
            UserError: the file cannot be written.
            ValueError: nothing can draw the model here.
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
        length = f"{len(frames)} frames, {len(poses.qpos) * decision:g} s"
        return f"{path} ({length}), drawn by {self._renderer.name}"

    def draw(self, poses: Poses) -> UInt8[np.ndarray, "frames size size 3"]:
        """One picture for each row of the poses."""
        return np.stack([self._renderer(*pose) for pose in zip(*poses, strict=True)])

    def close(self) -> None:
        """Give an OpenGL context back."""
        if "_renderer" in vars(self):  # it was opened
            self._renderer.close()


def drawable(env: Env, asked: str) -> MjxEnv:
    """The environment whose body is drawn.

    Args:
        asked: the flag that asks for it, for the error message.

    Raises:
        UserError: it has no MuJoCo model.
    """
    body = body_of(env)
    if body is None:
        raise UserError(
            f"{asked}: {env.spec.name} has no body that could be drawn; allowed: "
            "runs of the MuJoCo environments"
        )
    return body


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
