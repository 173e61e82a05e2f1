"""The base class of MuJoCo tasks, and checks of what a task returns."""

import abc
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, PyTree

from envs import checks
from envs.mjx._mjx import MjModel, mjx
from envs.mjx.assets import load_model
from envs.mjx.simulator import Simulator

# With these, the error of one step against MuJoCo is as small as with 100 and 50. The
# solver stops once it has converged, so a limit of 16 costs no more than one of 8, with
# which one of 512 steps of walker had an error of 0.03.
SOLVER_ITERATIONS = 16
LINE_SEARCH_ITERATIONS = 10

EPISODE_STEPS = 1000  # control steps; the time limit of every task of the suite


class Task(abc.ABC):
    """A task: model, start states, observation and reward.

    `model` below is the host-side MuJoCo model, for names, ids and ranges. `data` is
    the `mjx.Data` of the current state, as after `mj_forward`: coordinates, kinematics,
    sensors, contacts, forces. Only the fields that a function reads are computed;
    reading one that MJX does not compute raises ValueError.

    What an episode draws besides coordinates, such as a target's position, is the
    *scene*: a vector that `draw_scene` draws and `place` writes into the model. Tasks
    without a scene do not override these methods.
    """

    xml: str
    """File of the model in the assets folder."""

    obs_entries: tuple[tuple[str, int], ...] = ()
    """Name and size of each part of the observation in dm_control; see `EnvSpec`."""

    control_timestep: float | None = None
    """Seconds per control step; None means one physics step."""

    episode_steps: int = EPISODE_STEPS
    """Control steps per episode."""

    solver: tuple[int, int] | None = (SOLVER_ITERATIONS, LINE_SEARCH_ITERATIONS)
    """Iteration limits of the solver and its line search; None keeps the model's."""

    terminal: Callable[[MjModel, mjx.Data], Bool[Array, ""]] | None = None
    """Whether the state after a decision is terminal; None means never, as in the whole
    control suite, where episodes end by time."""

    lagging_forces: bool = False
    """Touch, force, torque and acceleration sensors show the last physics step, as in
    dm_control, not the current state. This is cheaper."""

    camera: int | str = 0
    """Index or name of the camera for images and videos."""

    def load(self) -> MjModel:
        """Load the model; override to change it for all episodes."""
        return load_model(self.xml)

    def scene(self, model: MjModel) -> np.ndarray:
        """The scene of the loaded model, `(n,)`; empty for most tasks."""
        return np.zeros(0)

    def draw_scene(self, model: MjModel, key: Key[Array, ""]) -> Float[Array, " n"]:
        """Draw the scene of an episode, `(n,)`."""
        return jnp.asarray(self.scene(model), float)

    def place(
        self, model: MjModel, mjx_model: mjx.Model, scene: Float[Array, " n"]
    ) -> mjx.Model:
        """`mjx_model` with the scene written into it."""
        return mjx_model

    @abc.abstractmethod
    def initial(
        self, simulator: Simulator, key: Key[Array, ""]
    ) -> tuple[Float[Array, " nq"], Float[Array, " nv"]]:
        """Draw the positions and velocities at the start of an episode.

        Args:
            simulator: the physics of this episode, its scene in place.
            key: PRNG key.
        """

    @abc.abstractmethod
    def observe(self, model: MjModel, data: mjx.Data) -> Float[Array, " obs"]:
        """The observation: the flat vector in dm_control's order."""

    @abc.abstractmethod
    def reward(self, model: MjModel, data: mjx.Data) -> Float[Array, ""]:
        """The reward of one control step, from the state it leads to."""


def check_task(
    task: Task, model: MjModel, data: Callable[[], mjx.Data]
) -> tuple[tuple[int, ...], str]:
    """Check what the functions of a task return, by tracing them.

    Args:
        data: returns the data of any state; it is traced.

    Returns:
        Shape and dtype of the observation.

    Raises:
        ValueError: a function returns a wrong shape or type; the message names it.
    """
    known = jax.eval_shape(data)

    def returned(name: str) -> PyTree:
        function = getattr(task, name)
        checks.check_callable(name, function, "(model, data)")
        return checks.traced(name, lambda x: function(model, x), "(data)", known)

    checks.scalar("reward", returned("reward"))
    if task.terminal is not None:
        checks.boolean("terminal", returned("terminal"))
    return checks.observation("observe", returned("observe"))


def check_controls(label: str, model: MjModel) -> None:
    """Raise ValueError, beginning with `label`, unless all controls are bounded."""
    if not np.all(model.actuator_ctrllimited):
        raise ValueError(
            f"{label}: every control must be bounded, got ctrllimited="
            f"{model.actuator_ctrllimited.tolist()}: give each actuator a ctrlrange"
        )
    low, high = model.actuator_ctrlrange.T
    if not np.all(np.isfinite(low) & np.isfinite(high) & (low < high)):
        raise ValueError(
            f"{label}: every ctrlrange must be finite with low < high, got "
            f"{model.actuator_ctrlrange.tolist()}"
        )
