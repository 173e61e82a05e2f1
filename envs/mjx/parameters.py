"""Physics parameters that may differ between the states of a batch."""

import copy
import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Num

from envs.mjx._mjx import MjModel, mjx, mujoco


class PhysicsParameters(eqx.Module):
    """Physics parameters of a state.

    Attributes:
        gravity: magnitude of gravity in m/s²; its direction stays the model's.
        friction: factor on every contact friction coefficient (sliding, torsional and
            rolling); friction inside joints and tendons does not change.
        mass: factor on every body's mass and inertia; joint armature does not change.
        gain: factor on every actuator's force, before the actuator's force limit.
    """

    gravity: Float[Array, "*batch"]
    friction: Float[Array, "*batch"]
    mass: Float[Array, "*batch"]
    gain: Float[Array, "*batch"]

    def replace(self, **values: float | Num[Array | np.ndarray, "..."] | None):
        """A copy with new values, each broadcast over the batch; None keeps the old.

        Raises:
            ValueError: a value is out of its range, or does not fit the batch.
        """
        changed = {}
        for name, value in values.items():
            if value is None:
                continue
            value = jnp.asarray(value, float)
            old = getattr(self, name)
            if value.shape not in ((), old.shape):
                raise ValueError(
                    f"{name} has shape {value.shape}, but the states have shape "
                    f"{old.shape}: pass one number, or one per state of the batch"
                )
            _check_range(name, value)
            changed[name] = jnp.broadcast_to(value, old.shape)
        return dataclasses.replace(self, **changed)


@dataclasses.dataclass(frozen=True)
class Parametrization:
    """How the fields of a model depend on `PhysicsParameters`.

    MuJoCo scales constraints by inverse inertias at the reference pose, the fields
    `body_invweight0`, `dof_invweight0` and `tendon_invweight0`. With mass factor s the
    joint-space inertia there is M(s) = M(1) + (s - 1) A, where A is the part that is
    not armature of joints and tendons. In the basis W that makes W' M(1) W = 1 and
    W' A W = diag(a),

        M(s)⁻¹ = W diag(1 / (1 + (s - 1) a)) W',

    so each entry of those fields is linear in 1 / (1 + (s - 1) a). The tables hold the
    coefficients. The last mode has a = 1, for bodies that only slide along the world's
    axes: for these MuJoCo uses the mass alone, without armature.

    Attributes:
        gravity: magnitude of the model's own gravity.
        direction: unit vector of gravity, downward if the model has no gravity.
        share: a, the part of each mode's inertia that is not armature, `(modes,)`.
        body: coefficients of `body_invweight0`, `(nbody, 2, modes)`.
        dof: coefficients of `dof_invweight0`, `(nv, modes)`.
        tendon: coefficients of `tendon_invweight0`, `(ntendon, modes)`.
        fixed: parameters that cannot be changed in this model, with the reason.
    """

    gravity: float
    direction: Float[np.ndarray, "3"]
    share: Float[np.ndarray, " modes"]
    body: Float[np.ndarray, "nbody 2 modes"]
    dof: Float[np.ndarray, "nv modes"]
    tendon: Float[np.ndarray, "ntendon modes"]
    fixed: dict[str, str]

    @classmethod
    def of(cls, model: MjModel) -> "Parametrization":
        """Compute the tables from the host-side model."""
        gravity = float(np.linalg.norm(model.opt.gravity))
        down = np.array([0.0, 0.0, -1.0])
        data = _reference(model)
        share, modes = _modes(model, data)
        return cls(
            gravity=gravity,
            direction=model.opt.gravity / gravity if gravity else down,
            share=share,
            body=_like(model.body_invweight0, _body_table(model, data, modes)),
            dof=_like(model.dof_invweight0, _dof_table(model, modes)),
            tendon=_like(model.tendon_invweight0, _tendon_table(model, data, modes)),
            fixed=_fixed(model),
        )

    def default(self) -> PhysicsParameters:
        """The parameters of the unchanged model."""
        one = jnp.ones(())
        gravity = jnp.asarray(self.gravity, float)
        return PhysicsParameters(gravity=gravity, friction=one, mass=one, gain=one)

    def check(self, **values: object) -> None:
        """Raise ValueError if a value is given for a fixed parameter of this model."""
        for name, reason in self.fixed.items():
            if values.get(name) is not None:
                raise ValueError(f"{name} cannot be changed: {reason}")

    def apply(self, mjx_model: mjx.Model, parameters: PhysicsParameters) -> mjx.Model:
        """The model on the device with the parameters of one state."""
        p = parameters
        new = {
            "opt": mjx_model.opt.replace(
                gravity=p.gravity * jnp.asarray(self.direction, float)
            ),
            "geom_friction": mjx_model.geom_friction * p.friction,
            "pair_friction": mjx_model.pair_friction * p.friction,
        }
        if "gain" not in self.fixed:
            new["actuator_gainprm"] = mjx_model.actuator_gainprm * p.gain
            new["actuator_biasprm"] = mjx_model.actuator_biasprm * p.gain
        if "mass" not in self.fixed:
            for name in ("body_mass", "body_subtreemass", "body_inertia"):
                new[name] = getattr(mjx_model, name) * p.mass
            extra = (p.mass - 1) * jnp.asarray(self.share, float)
            # 1 / (1 + extra) minus its value at mass factor 1: there exactly 0.
            change = -extra / (1 + extra)
            for name in ("body", "dof", "tendon"):
                table = jnp.asarray(getattr(self, name), float)
                full = f"{name}_invweight0"
                new[full] = getattr(mjx_model, full) + jnp.matmul(
                    table, change, precision="highest"
                )
        return mjx_model.replace(**new)


def _check_range(name: str, value: Array) -> None:
    if isinstance(value, Tracer):  # its values are not known yet
        return
    numbers = np.asarray(value)
    finite = np.isfinite(numbers)
    if name in ("friction", "mass"):
        fine, kind = numbers > 0, "positive and finite"
    elif name == "gravity":  # a magnitude
        fine, kind = numbers >= 0, "at least 0 and finite"
    else:
        fine, kind = finite, "finite"
    if not np.all(fine & finite):
        raise ValueError(f"{name}={numbers} must be {kind}")


SLIDES = 2  # `body_simple` of bodies that only slide along the world's axes


def _reference(model: MjModel) -> Any:
    data = mujoco.MjData(model)
    data.qpos[:] = model.qpos0
    mujoco.mj_forward(model, data)
    return data


def _inertia(model: MjModel, data: Any) -> np.ndarray:
    inertia = np.zeros((model.nv, model.nv))
    mujoco.mj_fullM(model, data, inertia)
    return inertia


def _modes(model: MjModel, data: Any) -> tuple[np.ndarray, np.ndarray]:
    """The share a, `(modes,)`, and the basis W, `(nv, modes)`, at the reference pose.

    The last column of W is 0; see `Parametrization`.
    """
    inertia = _inertia(model, data)
    inverse = np.linalg.inv(np.linalg.cholesky(inertia))
    # Doubling the masses adds the part that is not armature once more.
    double = copy.copy(model)
    double.body_mass[:] *= 2
    double.body_inertia[:] *= 2
    mujoco.mj_setConst(double, mujoco.MjData(double))
    movable = _inertia(double, _reference(double)) - inertia
    share, turned = np.linalg.eigh(inverse @ movable @ inverse.T)
    modes = np.concatenate([inverse.T @ turned, np.zeros((model.nv, 1))], axis=1)
    return np.append(share, 1.0), modes


def _body_table(model: MjModel, data: Any, modes: np.ndarray) -> np.ndarray:
    table = np.zeros((model.nbody, 2, modes.shape[1]))
    for body in range(1, model.nbody):
        jacobian = np.zeros((2, 3, model.nv))
        mujoco.mj_jacBodyCom(model, data, jacobian[0], jacobian[1], body)
        table[body] = np.mean((jacobian @ modes) ** 2, axis=1)
    slides = model.body_simple == SLIDES
    table[slides] = 0
    table[slides, 0, -1] = 1
    return table


def _dof_table(model: MjModel, modes: np.ndarray) -> np.ndarray:
    table = modes**2
    for joint in range(model.njnt):
        start = model.jnt_dofadr[joint]
        kind = model.jnt_type[joint]
        # MuJoCo averages over the three axes of a rotation or a translation.
        groups = {mujoco.mjtJoint.mjJNT_FREE: 2, mujoco.mjtJoint.mjJNT_BALL: 1}
        for _ in range(groups.get(mujoco.mjtJoint(kind), 0)):
            table[start : start + 3] = np.mean(table[start : start + 3], axis=0)
            start += 3
    slides = model.body_simple[model.dof_bodyid] == SLIDES
    table[slides] = 0
    table[slides, -1] = 1
    return table


def _tendon_table(model: MjModel, data: Any, modes: np.ndarray) -> np.ndarray:
    jacobian = np.zeros((model.ntendon, model.nv))
    if model.ntendon:
        mujoco.mju_sparse2dense(
            jacobian,
            np.ravel(data.ten_J),
            model.ten_J_rownnz,
            model.ten_J_rowadr,
            np.ravel(model.ten_J_colind),
        )
    return (jacobian @ modes) ** 2


def _like(known: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The table, scaled so that its rows sum to the model's own values.

    They already do, except that MuJoCo's mean excludes axes along which a body cannot
    move.
    """
    total = np.sum(table, axis=-1)
    factor = np.divide(known, total, out=np.zeros_like(total), where=total > 0)
    return table * factor[..., None]


def _fixed(model: MjModel) -> dict[str, str]:
    linear = (mujoco.mjtGain.mjGAIN_FIXED, mujoco.mjtGain.mjGAIN_AFFINE)
    biases = (mujoco.mjtBias.mjBIAS_NONE, mujoco.mjtBias.mjBIAS_AFFINE)
    if np.all(np.isin(model.actuator_gaintype, linear)) and np.all(
        np.isin(model.actuator_biastype, biases)
    ):
        return {}
    reason = "the model has actuators with a nonlinear force, such as muscles"
    return {"gain": reason, "mass": reason}
