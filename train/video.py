"""An episode as a GIF, drawn by MuJoCo from the states the agent went through."""

import warnings
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from core.agent import Agent
from envs import Env, VectorEnv
from envs._mjx import mujoco
from envs.mjx_env import MjxEnv
from train.errors import UserError
from train.evaluation import episode_returns, play

FRAMES_PER_SECOND = 25

# What to do where MuJoCo finds nothing to draw with.
GL_REMEDY = (
    "set MUJOCO_GL=egl (needs a GPU's driver or Mesa's libegl1) or MUJOCO_GL=osmesa "
    "(needs libosmesa6)"
)


class Episode(NamedTuple):
    """The decisions of one episode."""

    qpos: Float[np.ndarray, "decisions nq"]
    total: float
    """Its return."""


class Film:
    """Draws episodes of one environment, seen by the model's first camera.

    Args:
        size: width and height in pixels.

    Raises:
        UserError: the environment has no MuJoCo model, or nothing can be drawn here.
    """

    def __init__(self, env: Env, size: int) -> None:
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

    def write(self, agent: Agent, seed: int, path: Path) -> str:
        """Play an episode and write it to `path`, in real time.

        Returns:
            What was written, in words.

        Raises:
            UserError: the file cannot be written.
        """
        episode = play_episode(self._env, agent, seed)
        spec = self._env.spec
        decision = spec.control_timestep * spec.action_repeat
        stride = max(1, round(1 / (FRAMES_PER_SECOND * decision)))
        frames = self.draw(episode.qpos[::stride])
        try:
            # GIF counts time in hundredths of a second.
            save_gif(frames, path, milliseconds=10 * round(100 * stride * decision))
        except OSError as error:
            raise UserError(
                f"--video {path}: cannot be written ({error.strerror})"
            ) from None
        return f"{path} ({len(frames)} frames, return {episode.total:.1f})"

    def draw(
        self, qpos: Float[np.ndarray, "frames nq"]
    ) -> UInt8[np.ndarray, "frames size size 3"]:
        """One picture for each vector of generalized positions."""
        model = self._env.model
        data = mujoco.MjData(model)
        camera = 0 if model.ncam else -1
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


def play_episode(env: MjxEnv, agent: Agent, seed: int) -> Episode:
    """Play one episode with the mode of the policy."""

    @jax.jit
    def visit(agent: Agent):
        states, timesteps = play(VectorEnv(env, 1), agent, jax.random.key(seed))
        return states.qpos[:, 0], timesteps.is_last[:, 0], episode_returns(timesteps)[0]

    qpos, is_last, total = jax.device_get(visit(agent))
    # A corrupt simulation ends an episode early, and the next one begins.
    return Episode(qpos[: int(np.argmax(is_last)) + 1], float(total))


def save_gif(
    frames: UInt8[np.ndarray, "frames height width 3"], path: Path, *, milliseconds: int
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
