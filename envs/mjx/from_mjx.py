"""`from_mjx`: an environment from any MuJoCo model and a few functions."""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from envs import checks
from envs.mjx._mjx import MjModel, MjSpec, mjx, mujoco
from envs.mjx.env import MjxEnv
from envs.mjx.simulator import Simulator
from envs.mjx.task import EPISODE_STEPS, Task

Source = MjModel | MjSpec | str | os.PathLike[str]
"""A model, its specification, XML text, or the path of an XML or MJB file."""

Measure = Callable[[MjModel, mjx.Data], Any]
"""A function of the host-side model and the `mjx.Data` of a state."""

Initial = Callable[[MjModel, Key[Array, ""]], tuple[Array, Array]]
"""A function of the host-side model and a key to positions and velocities."""


@dataclasses.dataclass(frozen=True)
class FunctionTask(Task):
    """A `Task` whose parts are functions; see `from_mjx`."""

    xml: str
    source: MjModel
    observation: Measure
    value: Measure
    start: Initial | None
    control_timestep: float | None
    episode_steps: int
    solver: tuple[int, int] | None
    terminal: Measure | None
    camera: int | str

    def load(self) -> MjModel:
        return self.source

    def initial(
        self, simulator: Simulator, key: Key[Array, ""]
    ) -> tuple[Float[Array, " nq"], Float[Array, " nv"]]:
        model = simulator.model
        if self.start is not None:
            qpos, qvel = self.start(model, key)
            return jnp.asarray(qpos, float), jnp.asarray(qvel, float)
        return jnp.asarray(model.qpos0, float), jnp.zeros(model.nv)

    # What the functions return is checked by `MjxEnv`.
    def observe(self, model: MjModel, data: mjx.Data) -> Any:
        return self.observation(model, data)

    def reward(self, model: MjModel, data: mjx.Data) -> Any:
        return self.value(model, data)


def from_mjx(
    model: Source,
    *,
    observe: Measure,
    reward: Measure,
    initial: Initial | None = None,
    terminal: Measure | None = None,
    name: str = "custom",
    action_repeat: int = 1,
    control_timestep: float | None = None,
    episode_steps: int = EPISODE_STEPS,
    solver: tuple[int, int] | None = None,
    camera: int | str = 0,
) -> MjxEnv:
    """An environment from a MuJoCo model and functions, which are traced by JAX.

    Actions in [-1, 1] are scaled to each actuator's `ctrlrange`.

    Args:
        model: a model (which is copied), its `MjSpec`, XML text, or the path of an XML
            or MJB file.
        observe: `(model, data) -> (obs,)`, the observation of a state. `model` is the
            host-side MuJoCo model, for names, ids and ranges; `data` is the state's
            `mjx.Data`, as after MuJoCo's `mj_forward`: coordinates, kinematics,
            sensors, contacts, forces. Only the fields that the function reads are
            computed: forces, accelerations or their sensors cost one more solution of
            the dynamics per control step.
        reward: `(model, data) -> ()`, the reward of a control step, from the state it
            leads to.
        initial: `(model, key) -> ((nq,), (nv,))`, draws the positions and velocities at
            the start of an episode; None means the model's reference pose, at rest.
        terminal: `(model, data) -> ()`, a boolean: whether the state is terminal,
            evaluated after each decision. None means that episodes end by time only.
        name: for `EnvSpec.name`.
        action_repeat: control steps per decision; must divide `episode_steps`.
        control_timestep: seconds per control step, a multiple of the model's timestep;
            None means one physics step.
        episode_steps: control steps per episode.
        solver: iterations of the constraint solver and of its line search; None means
            the model's. For the control suite (16, 10) is as exact as (100, 50), and
            faster.
        camera: number or name of the camera for images and videos;
            `envs.render.pixels.PixelEnv` checks that it exists.

    Raises:
        FileNotFoundError: `model` is a path where there is no file.
        TypeError: `model` is none of these.
        ValueError: an argument is invalid, a function returns a wrong shape or reads a
            field that MJX does not compute, MuJoCo cannot load the model, or MJX cannot
            simulate it or ignores one of its features.
    """
    source, label = _load(model)
    if not source.nu:
        raise ValueError(f"{label}: the model has no actuator, so there is no action")
    _check_numbers(source, control_timestep, solver)
    for what, function in {"observe": observe, "reward": reward}.items():
        checks.check_callable(what, function, "(model, data)")
    if terminal is not None:
        checks.check_callable("terminal", terminal, "(model, data)")
    task = FunctionTask(
        xml=label,
        source=source,
        observation=observe,
        value=reward,
        start=initial,
        control_timestep=control_timestep,
        episode_steps=episode_steps,
        solver=solver,
        terminal=terminal,
        camera=camera,
    )
    env = MjxEnv(task, name=name, action_repeat=action_repeat)
    env.check_simulation()
    if initial is not None:
        _check_initial(env.model, initial)
    return env


def _load(model: Any) -> tuple[MjModel, str]:
    """A copy of the model, and its name for error messages."""
    if isinstance(model, mujoco.MjModel):
        label = model.names.split(b"\0", 1)[0].decode() or "model"
        return copy_model(model), label
    if isinstance(model, mujoco.MjSpec):
        return _compiled(model.compile, model.modelname)
    if isinstance(model, str) and model.lstrip().startswith("<"):
        compiled, _ = _compiled(lambda: mujoco.MjModel.from_xml_string(model), "")
        return compiled, compiled.names.split(b"\0", 1)[0].decode() or "model"
    if not isinstance(model, str | os.PathLike):
        raise TypeError(
            f"model is of type {type(model).__name__}: pass a mujoco.MjModel or "
            "MjSpec, XML text, or the path of an XML or MJB file"
        )
    path = pathlib.Path(model)
    try:
        found = path.is_file()
    except (OSError, ValueError):  # too long for a path, or with a null character
        found = False
    if not found:
        shown = str(model)
        if len(shown) > 240:  # the name of a file is at its end
            shown = f"{shown[:100]}...{shown[-100:]}"
        raise FileNotFoundError(f"model={shown!r}: there is no such file")
    binary = path.suffix.lower() == ".mjb"
    load = mujoco.MjModel.from_binary_path if binary else mujoco.MjModel.from_xml_path
    return _compiled(lambda: load(str(path)), path.name)


def _compiled(load: Callable[[], MjModel], label: str) -> tuple[MjModel, str]:
    label = label or "model"
    try:
        return load(), label
    except Exception as error:  # MuJoCo's own
        said = " ".join(str(error).split())
        raise ValueError(f"{label}: MuJoCo cannot load it: {said[:300]}") from error


def copy_model(model: MjModel) -> MjModel:
    """A copy of a model."""
    buffer = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return mujoco.MjModel.from_binary_path("model", {"model": buffer.tobytes()})


def _check_numbers(
    model: MjModel,
    control_timestep: float | None,
    solver: tuple[int, int] | None,
) -> None:
    if solver is not None:
        try:
            iterations, line_search = solver
        except (TypeError, ValueError):
            raise ValueError(
                f"solver={solver!r} must be two numbers, such as (16, 10)"
            ) from None
        checks.whole("solver[0]", iterations)
        checks.whole("solver[1]", line_search)
    if control_timestep is None:
        return
    steps = checks.positive("control_timestep", control_timestep) / model.opt.timestep
    if round(steps) < 1 or abs(steps - round(steps)) > 1e-6 * steps:
        raise ValueError(
            f"control_timestep={control_timestep} must be a multiple of the model's "
            f"timestep, {model.opt.timestep:g} s"
        )


def _check_initial(model: MjModel, initial: Initial) -> None:
    """Raises ValueError unless `initial` draws positions and velocities."""
    checks.check_callable("initial", initial, "(model, key)")
    key = jax.eval_shape(lambda: jax.random.key(0))
    drawn = checks.traced("initial", lambda key: initial(model, key), "(key)", key)
    found = [leaf.shape for leaf in jax.tree.leaves(drawn)]
    want = [(model.nq,), (model.nv,)]
    if not isinstance(drawn, tuple | list) or len(drawn) != 2 or found != want:
        raise ValueError(
            f"initial returns {checks.types(drawn)}, but must return a pair of "
            f"positions and velocities, of shapes {want}"
        )
    for leaf in drawn:
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise ValueError(f"initial returns {checks.types(drawn)}: not complex ones")
