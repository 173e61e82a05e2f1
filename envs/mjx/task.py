"""What a MuJoCo task is made of."""

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

# Same one-step error against MuJoCo as 100/50 iterations. The solver stops before where
# it has converged, so 16 costs no more than 8, with which one step of 512 of walker was
# off by 0.03. Fewer are faster, and wrong more often.
SOLVER_ITERATIONS = 16
LINE_SEARCH_ITERATIONS = 10

EPISODE_STEPS = 1000  # control steps; the time limit of every task of the suite


class Task(abc.ABC):
    """What distinguishes one task: its model, start states, observation and reward.

    `model` below is the host-side MuJoCo model, used for names, ids and ranges.
    `data` is of the present state under the control it is held with, as after
    `mj_forward`: coordinates, kinematics, sensors, contacts, forces. What a function
    reads is computed, and nothing else; reading what MJX cannot compute raises.

    Where an episode also draws something that is not a coordinate, such as the place
    of a target, that is its *scene*: a vector of numbers that `draw_scene` draws and
    `place` writes into the model. Tasks without one leave these methods alone.
    """

    xml: str
    """File of the model in the assets folder."""

    obs_entries: tuple[tuple[str, int], ...] = ()
    """Name and size of each part of the observation, as dm_control has them: see
    `EnvSpec`."""

    control_timestep: float | None = None
    """Seconds per control step; None means one physics step."""

    episode_steps: int = EPISODE_STEPS
    """Control steps after which an episode ends by time."""

    solver: tuple[int, int] | None = (SOLVER_ITERATIONS, LINE_SEARCH_ITERATIONS)
    """Iterations of solver and line search; None keeps those of the model."""

    terminal: Callable[[MjModel, mjx.Data], Bool[Array, ""]] | None = None
    """Whether the state after a decision ends the episode for good; None means never,
    as in the whole suite, where episodes end by time."""

    lagging_forces: bool = False
    """Touch, force, torque and acceleration sensors show the last physics step, as
    dm_control's do, in place of the present state. That is cheaper."""

    camera: int | str = 0
    """The model's camera that pictures are drawn from, by number or name."""

    def load(self) -> MjModel:
        """The model of the task; override to change what all episodes share."""
        return load_model(self.xml)

    def scene(self, model: MjModel) -> np.ndarray:
        """The scene of the model as loaded, `(n,)`; empty for most tasks."""
        return np.zeros(0)

    def draw_scene(self, model: MjModel, key: Key[Array, ""]) -> Float[Array, " n"]:
        """Draws the scene of an episode."""
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
        """Draws the positions and velocities with which an episode starts.

        Args:
            simulator: the physics of this episode, its scene in place.
            key: PRNG key.
        """

    @abc.abstractmethod
    def observe(self, model: MjModel, data: mjx.Data) -> Float[Array, " obs"]:
        """The observation: the flat vector in dm_control's order."""

    @abc.abstractmethod
    def reward(self, model: MjModel, data: mjx.Data) -> Float[Array, ""]:
        """The reward of one control step, at the state in which it ended."""


def check_task(
    task: Task, model: MjModel, data: Callable[[], mjx.Data]
) -> tuple[tuple[int, ...], str]:
    """What the functions of a task return, found without computing anything.

    Args:
        data: makes the data of any state; it is traced.

    Returns:
        Shape and dtype of the observation.

    Raises:
        ValueError: a function does not fit; the message names it.
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
    """Raises ValueError, which begins with `label`, unless all controls are bounded."""
    if not np.all(model.actuator_ctrllimited):
        raise ValueError(
            f"{label}: every control must be bounded, got ctrllimited="
            f"{model.actuator_ctrllimited.tolist()}: give each actuator a ctrlrange"
        )
    low, high = model.actuator_ctrlrange.T
    if not np.all(np.isfinite(low) & np.isfinite(high) & (low < high)):
        raise ValueError(
            f"{label}: every ctrlrange must be finite, its first number below its "
            f"second, got {model.actuator_ctrlrange.tolist()}"
        )
