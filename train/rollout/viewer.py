"""MuJoCo's interactive viewer, which shows the states that an agent went through."""

import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from envs import Env
from envs.mjx._mjx import mujoco
from envs.render.opengl import HostBody
from train.errors import UserError, one_line
from train.rollout.player import Poses
from train.rollout.video import drawable


class Clock(NamedTuple):
    """What sets the pace."""

    now: Callable[[], float]
    sleep: Callable[[float], None]


REAL_TIME = Clock(time.monotonic, time.sleep)
INSTEAD = "--video out.gif makes a film instead"


class Viewer:
    """A window that shows episodes in real time, through the task's camera at first.

    Args:
        env: the environment.
        asked: what asks for the window, for error messages.
        clock: tests have one of their own.

    Raises:
        UserError: the environment has no MuJoCo model, or no window opens here.
    """

    def __init__(self, env: Env, asked: str, clock: Clock = REAL_TIME) -> None:
        body, self._clock = drawable(env, asked), clock
        self._seconds = env.spec.control_timestep * env.spec.action_repeat
        self._body = HostBody(body)
        self._window = _open(self._body)
        if body.model.ncam:
            with self._window.lock():
                self._window.cam.type = mujoco.mjtCamera.mjCAMERA_FIXED
                camera = body.model.camera(body.task.camera).id
                self._window.cam.fixedcamid = camera

    def show(self, poses: Poses) -> bool:
        """Show an episode; False once the window has been closed."""
        due = self._clock.now()
        for pose in zip(*poses, strict=True):
            if not self._window.is_running():
                return False
            with self._window.lock():
                self._body.place(*pose)
            self._window.sync()
            due += self._seconds
            self._clock.sleep(max(0.0, due - self._clock.now()))
        return self._window.is_running()

    def close(self) -> None:
        """Close the window, if it is still open."""
        self._window.close()


def _open(body: HostBody) -> Any:
    """The window, with a body in it.

    Raises:
        UserError: it does not open.
    """
    import mujoco.viewer

    try:
        if sys.platform != "darwin":  # where the window belongs to mjpython
            _try_window()
        return mujoco.viewer.launch_passive(
            body.model, body.data, show_left_ui=False, show_right_ui=False
        )
    except Exception as error:  # GLFW's and MuJoCo's own
        python = "; on macOS start it with mjpython" if sys.platform == "darwin" else ""
        raise UserError(
            f"MuJoCo's viewer does not open here ({one_line(error)[:300]}){python}; "
            f"{INSTEAD}"
        ) from error


def _try_window() -> None:
    """Open a window that is not shown: MuJoCo's would wait for ever where none opens.

    Raises:
        RuntimeError: GLFW opens none.
    """
    import glfw

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # GLFW tells its errors as warnings
        if not glfw.init():
            raise RuntimeError("GLFW does not start")
        glfw.window_hint(glfw.VISIBLE, glfw.FALSE)
        window = glfw.create_window(16, 16, "", None, None)
        if not window:
            raise RuntimeError("GLFW opens no window")
        glfw.destroy_window(window)
        glfw.default_window_hints()
