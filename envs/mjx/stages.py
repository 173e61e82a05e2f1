"""The stages of MJX's forward dynamics, and those that a function needs.

A state holds MuJoCo coordinates only. The other fields of `mjx.Data` are computed when
a function reads them, and only those: the solver costs as much as a physics step. To
find them, the function is traced; then the stages run that compute the fields on which
its result depends. A field that no stage computes raises ValueError.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import jaxpr_as_fun
from jax.interpreters import partial_eval
from jaxtyping import PyTree

from envs.mjx._mjx import mjx, mujoco

Run = Callable[[mjx.Model, mjx.Data], mjx.Data]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One part of the forward dynamics.

    Attributes:
        run: the function.
        fields: names of the fields of `mjx.Data` that it computes.
        needs: names of the stages that it depends on directly.
    """

    run: Run
    fields: frozenset[str]
    needs: frozenset[str]


def _inertia(model: mjx.Model, data: mjx.Data) -> mjx.Data:
    data = mjx.tendon_armature(model, mjx.crb(model, data))
    return mjx.factor_m(model, data)


def _velocity(model: mjx.Model, data: mjx.Data) -> mjx.Data:
    impl: Any = data._impl
    actuators = impl.actuator_moment @ data.qvel
    tendons = impl.ten_J @ data.qvel
    return data.replace(
        _impl=impl.replace(actuator_velocity=actuators, ten_velocity=tendons)
    )


def _bias(model: mjx.Model, data: mjx.Data) -> mjx.Data:
    return mjx.tendon_bias(model, mjx.rne(model, data))


def _solve(model: mjx.Model, data: mjx.Data) -> mjx.Data:
    impl: Any = data._impl
    if impl.efc_J.size == 0:
        return data.replace(qacc=data.qacc_smooth)
    return mjx.solve(model, data)


def _stage(run: Run, fields: str, needs: str = "") -> Stage:
    return Stage(run, frozenset(fields.split()), frozenset(needs.split()))


# In the order in which `mjx.forward` runs them.
STAGES: dict[str, Stage] = {
    "kinematics": _stage(
        mjx.kinematics,
        "xpos xquat xmat xipos ximat xanchor xaxis "
        "geom_xpos geom_xmat site_xpos site_xmat",
    ),
    "com_pos": _stage(mjx.com_pos, "subtree_com cinert cdof", "kinematics"),
    "camlight": _stage(mjx.camlight, "cam_xpos cam_xmat", "com_pos"),
    "tendon": _stage(
        mjx.tendon,
        "ten_length ten_J ten_wrapadr ten_wrapnum wrap_obj wrap_xpos",
        "com_pos",
    ),
    "inertia": _stage(_inertia, "crb M qLD qLDiagInv", "com_pos tendon"),
    "collision": _stage(mjx.collision, "contact", "kinematics"),
    "constraint": _stage(
        mjx.make_constraint,
        "efc_J efc_pos efc_margin efc_frictionloss efc_D efc_aref",
        "com_pos tendon collision",
    ),
    "transmission": _stage(
        mjx.transmission, "actuator_length actuator_moment", "com_pos tendon"
    ),
    "sensor_pos": _stage(mjx.sensor_pos, "sensordata"),
    "com_vel": _stage(mjx.com_vel, "cvel cdof_dot", "com_pos"),
    "velocity": _stage(
        _velocity, "actuator_velocity ten_velocity", "tendon transmission"
    ),
    "passive": _stage(mjx.passive, "qfrc_passive qfrc_gravcomp", "com_vel velocity"),
    "bias": _stage(_bias, "qfrc_bias", "com_vel tendon"),
    "subtree_vel": _stage(mjx.subtree_vel, "subtree_linvel subtree_angmom", "com_vel"),
    "sensor_vel": _stage(mjx.sensor_vel, "sensordata"),
    "actuation": _stage(
        mjx.fwd_actuation,
        "act_dot qfrc_actuator actuator_force",
        "transmission velocity passive",
    ),
    "acceleration": _stage(
        mjx.fwd_acceleration,
        "qfrc_smooth qacc_smooth",
        "inertia passive bias actuation",
    ),
    "solve": _stage(
        _solve, "qacc qfrc_constraint efc_force", "constraint acceleration"
    ),
    "rne_postconstraint": _stage(
        mjx.rne_postconstraint, "cacc cfrc_int cfrc_ext", "solve com_vel"
    ),
    "sensor_acc": _stage(mjx.sensor_acc, "sensordata"),
}

_SENSORS = {
    "sensor_pos": mujoco.mjtStage.mjSTAGE_POS,
    "sensor_vel": mujoco.mjtStage.mjSTAGE_VEL,
    "sensor_acc": mujoco.mjtStage.mjSTAGE_ACC,
}

# Fields that the state holds, or that the model fixes for all states.
_GIVEN = """
    time qpos qvel act ctrl qfrc_applied xfrc_applied eq_active mocap_pos mocap_quat
    userdata efc_type
"""
GIVEN = frozenset(_GIVEN.split())

_NO_REMEDY = "do not use it in observations or rewards"
UNKNOWN: dict[str, str] = {
    "qacc_warmstart": "it is the initial guess of the solver: read `qacc`",
    "qfrc_fluid": "MJX adds it to `qfrc_passive`: read that",
    "qfrc_inverse": "MJX does not run the inverse dynamics: call `mjx.inverse`",
    "solver_niter": "MJX does not count the solver's iterations: " + _NO_REMEDY,
    "history": "MJX has no history of controls: " + _NO_REMEDY,
    "plugin_state": "MJX has no plugins: " + _NO_REMEDY,
}
"""Fields that no stage computes, with the reason and the remedy."""

_OWNER = {
    field: name
    for name, stage in STAGES.items()
    for field in stage.fields
    if field != "sensordata"
}


_SPATIAL = "MJX omits the forces of spatial tendons in it: " + _NO_REMEDY


def _reason(field: str, reason: str) -> str:
    return f"data.{field} cannot be read: {reason}"


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """The stages of one model.

    Attributes:
        sensors: for each sensor stage of the model, the stages it depends on.
        unknown: fields that cannot be computed, with the reason and the remedy.
    """

    sensors: dict[str, frozenset[str]]
    unknown: dict[str, str]

    @classmethod
    def of(cls, model: mjx.Model, data: mjx.Data, *, forces: bool) -> "Pipeline":
        """The stages of a model.

        Args:
            model: the model on the device.
            data: its data; only the shapes are used.
            forces: include the sensors of forces and accelerations.
        """
        sensors = {}
        for name, needed in _SENSORS.items():
            if not (model.sensor_needstage == int(needed)).any():
                continue
            if name == "sensor_acc" and not forces:
                continue
            run = functools.partial(STAGES[name].run, model)
            _, reads = traced(lambda data, run=run: run(data).sensordata, data)
            owners = {_OWNER[field] for field in reads if field in _OWNER}
            sensors[name] = frozenset(owners)
        unknown = dict(UNKNOWN)
        if has_spatial_tendon(model):
            unknown |= {"cfrc_ext": _SPATIAL, "cfrc_int": _SPATIAL}
        return cls(sensors, unknown)

    def stages(self, fields: Iterable[str]) -> list[str]:
        """The stages that compute these fields, in the order to run them.

        Raises:
            ValueError: no stage computes one of the fields.
        """
        wanted: set[str] = set()
        for field in fields:
            if field in self.unknown:
                raise ValueError(_reason(field, self.unknown[field]))
            if field == "sensordata":
                wanted |= self.sensors.keys()
            elif field in _OWNER:
                wanted.add(_OWNER[field])
            elif field not in GIVEN:
                reason = "MJX does not compute it: " + _NO_REMEDY
                raise ValueError(_reason(field, reason))
        closed: set[str] = set()
        while wanted:
            name = wanted.pop()
            closed.add(name)
            wanted |= (
                STAGES[name].needs | self.sensors.get(name, frozenset())
            ) - closed
        return [name for name in STAGES if name in closed]

    def everything(self, run: Callable[[list[str]], mjx.Data]) -> mjx.Data:
        """The data after all stages; use of an unknown field raises ValueError."""
        data = run(self.stages([*(_OWNER.keys() - self.unknown.keys()), "sensordata"]))
        impl: Any = data._impl

        def raising(part: Any) -> dict[str, Unreadable]:
            names = (field.name for field in dataclasses.fields(part))
            return {
                x: Unreadable(x, self.unknown[x]) for x in names if x in self.unknown
            }

        return data.replace(_impl=impl.replace(**raising(impl)), **raising(data))


def has_spatial_tendon(model: Any) -> bool:
    """Whether the model, on host or device, has a tendon through sites."""
    return bool((model.wrap_type == int(mujoco.mjtWrap.mjWRAP_SITE)).any())


def traced[T: PyTree](
    function: Callable[[mjx.Data], T], data: mjx.Data
) -> tuple[Callable[[mjx.Data], T], frozenset[str]]:
    """Trace a function, and find the fields of `data` that its result depends on.

    Returns:
        The traced function, which reads only those fields, and the names of the fields
        that are not empty arrays.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(data)
    jaxpr, used = partial_eval.dce_jaxpr(
        closed.jaxpr, [True] * len(closed.jaxpr.outvars)
    )
    names = [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(data)]

    def replay(data: mjx.Data) -> T:
        leaves = jax.tree.leaves(data)
        inputs = [leaf for leaf, use in zip(leaves, used, strict=True) if use]
        outputs = jaxpr_as_fun(closed.replace(jaxpr=jaxpr))(*inputs)
        # Outputs that do not depend on the state may be plain numbers.
        arrays = [x if isinstance(x, jax.Array) else jnp.asarray(x) for x in outputs]
        return jax.tree.unflatten(jax.tree.structure(shapes), arrays)

    read = frozenset(
        name
        for name, leaf, use in zip(names, jax.tree.leaves(data), used, strict=True)
        if use and leaf.size
    )
    return replay, read


def _name(path: tuple) -> str:
    """The field of a leaf; all fields of contacts are `contact`."""
    return next(key.name for key in path if key.name != "_impl")


class Unreadable:
    """Placeholder for a field of `mjx.Data` that is not computed; any use raises."""

    def __init__(self, field: str, reason: str):
        self._field = field
        self._reason = reason

    def _raise(self, *args: object, **kwargs: object):
        raise ValueError(_reason(self._field, self._reason))

    def __getattr__(self, name: str):
        if name.startswith("__") and name != "__jax_array__":
            raise AttributeError(name)
        return self._raise()

    def __eq__(self, other: object) -> bool:  # pytrees compare it
        return isinstance(other, Unreadable) and other._field == self._field

    def __hash__(self) -> int:
        return hash(self._field)

    __array__ = __getitem__ = __len__ = __iter__ = __bool__ = __float__ = _raise
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __neg__ = _raise
    __truediv__ = __rtruediv__ = __matmul__ = __rmatmul__ = __pow__ = __abs__ = _raise
    __lt__ = __le__ = __gt__ = __ge__ = _raise


jax.tree_util.register_static(Unreadable)
