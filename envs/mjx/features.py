"""MuJoCo features that MJX silently ignores.

MJX rejects some features itself. Others it does not copy to the device, or copies but
never uses: the simulation would differ from MuJoCo's without a warning. This module
compares the fields of both models and finds everything that a model sets and MJX drops,
including features of later MuJoCo versions.
"""

import dataclasses
import re
import warnings
from collections.abc import Iterator

import numpy as np
from mujoco.mjx._src.collision_driver import geom_pairs
from mujoco.mjx._src.types import Option

from envs.mjx._mjx import MjModel, mjx, mujoco
from envs.mjx.stages import has_spatial_tendon

# Not copied, but without effect on the simulation: appearance, names, user data, sizes,
# and tables that MuJoCo derives for its own algorithms.
_IRRELEVANT = re.compile(
    r"(mat|tex|skin|light|bvh|oct|text|path|name|names|mesh|efm0|efmC|flex\w*)_\w*"
    r"|[BD]_\w+|map\w+|\w*_(user|group|bvhadr|bvhnum|pathadr|rgba|matid|historyadr)"
    r"|(nuser|nskin|nmesh|ntext|nbvh|nflex|nefm|nnames|npolygon|nJf)\w*|n\w+data"
    r"|cam_(ipd|output|projection)|tree_\w+|ten_J_\w+|tendon_(width|tree\w+)"
    r"|actuator_(ctrladr|ctrlspec|outadr|length0)|dof_length|numeric_size|sensor_noise"
    r"|n(conmax|jmax|arena|buffer|emax|paths|oct|actuator|out|tree|pluginattr|efm\w+)"
    r"|paths|vis|opt|stat"
)
# The same for `model.opt`: options of algorithms that MJX does not have.
_IRRELEVANT_OPTIONS = re.compile(
    # MJX rejects models whose flags enable the first four.
    r"o_(margin|solref|solimp|friction)|ccd_\w+|sdf_\w+|noslip_tolerance|sleep_tolerance"
)

# Copied to the device, but not used there.
_UNUSED = (
    "actuator_actearly",
    "dof_dampingpoly",
    "jnt_stiffnesspoly",
    "tendon_dampingpoly",
    "tendon_stiffnesspoly",
)

_WORDS = {
    "actuator_history": "history of an actuator",
    "actuator_actearly": "activations that act one step early",
    "actuator_armature": "armature of an actuator",
    "actuator_damping": "damping of an actuator",
    "actuator_dampingpoly": "polynomial damping of an actuator",
    "actuator_delay": "delay of an actuator",
    "dof_dampingpoly": "polynomial damping of a joint",
    "geom_adhesion": "adhesion of a geom",
    "geom_surfacevel": "moving surface (conveyor) of a geom",
    "jnt_stiffnesspoly": "polynomial stiffness of a joint",
    "nplugin": "plugins",
    "sensor_delay": "delay of a sensor",
    "sensor_interval": "sampling interval of a sensor",
    "tendon_dampingpoly": "polynomial damping of a tendon",
    "tendon_stiffnesspoly": "polynomial stiffness of a tendon",
}

# The sensors that MJX computes; readings of all others stay 0.
_SENSORS = """
    MAGNETOMETER CAMPROJECTION RANGEFINDER JOINTPOS TENDONPOS ACTUATORPOS BALLQUAT
    FRAMEPOS FRAMEXAXIS FRAMEYAXIS FRAMEZAXIS FRAMEQUAT SUBTREECOM CLOCK VELOCIMETER
    GYRO JOINTVEL TENDONVEL ACTUATORVEL BALLANGVEL FRAMELINVEL FRAMEANGVEL
    SUBTREELINVEL SUBTREEANGMOM TOUCH CONTACT ACCELEROMETER FORCE TORQUE ACTUATORFRC
    JOINTACTFRC TENDONACTFRC FRAMELINACC FRAMEANGACC
"""
SENSORS = frozenset(_SENSORS.split())

_NO_RAYS = [
    int(mujoco.mjtGeom.mjGEOM_CYLINDER),
    int(mujoco.mjtGeom.mjGEOM_HFIELD),
    int(mujoco.mjtGeom.mjGEOM_SDF),
]


@dataclasses.dataclass(frozen=True)
class Ignored:
    """A feature that a model sets and MJX ignores.

    Attributes:
        what: the feature, with its field and value.
        remedy: how to avoid it.
        known: whether it is known to change the simulation.
    """

    what: str
    remedy: str
    known: bool = True

    def __str__(self) -> str:
        return f"MJX ignores {self.what}: {self.remedy}"


def check_features(model: MjModel, label: str) -> None:
    """Reject a model that MJX would simulate differently from MuJoCo.

    Warn of ignored fields that this module does not know, of a later MuJoCo.

    Raises:
        ValueError: with each feature, its value and the remedy.
    """
    found = list(ignored(model))
    refused = [str(one) for one in found if one.known]
    if refused:
        raise ValueError(f"{label}: " + "; ".join(refused))
    for one in found:
        warnings.warn(f"{label}: {one}", stacklevel=3)


def ignored(model: MjModel) -> Iterator[Ignored]:
    """All features that the model sets and MJX ignores."""
    yield from _fields(model)
    yield from _options(model)
    yield from _flags(model)
    yield from _fluid(model)
    yield from _sensors(model)


def _fields(model: MjModel) -> Iterator[Ignored]:
    carried = {field.name for field in mjx.Model.fields()}
    for name in sorted(set(dir(model)) - carried | set(_UNUSED)):
        if name.startswith("_") or _IRRELEVANT.fullmatch(name):
            continue
        value = getattr(model, name)
        if callable(value) or isinstance(value, bytes) or name == "nflex":
            continue
        value = np.asarray(value)
        nothing = (0, -1, 1) if name in ("actuator_ctrlnum", "actuator_outnum") else ()
        set_here = np.flatnonzero(~np.isin(value, nothing or (0, -1)))
        if not set_here.size:
            continue
        row = value.reshape(len(value), -1)[_row(value, set_here)] if value.ndim else 0
        shown = value.item() if value.ndim == 0 else np.squeeze(row).tolist()
        where = _element(model, name, _row(value, set_here)) if value.ndim else ""
        words = _WORDS.get(name)
        yield Ignored(
            f"{words + ', ' if words else ''}{name}={shown}{where}",
            "remove it from the model"
            if words
            else "unknown field; remove it if it affects the simulation",
            known=words is not None,
        )


def _row(value: np.ndarray, found: np.ndarray) -> int:
    return int(found[0]) // max(1, value.size // len(value))


def _element(model: MjModel, field: str, row: int) -> str:
    """The element that a row of a field belongs to, as ' (geom "floor")'."""
    kind = {"jnt": "joint", "dof": "joint"}.get(prefix := field.split("_")[0], prefix)
    if prefix == "dof":
        row = int(model.dof_jntid[row])
    name = getattr(model, kind)(row).name if hasattr(model, kind) else ""
    return f" ({kind} {name!r})" if name else f" ({kind} {row})"


def _options(model: MjModel) -> Iterator[Ignored]:
    carried = {field.name for field in Option.fields()}
    default = mujoco.MjOption()
    if model.opt.noslip_iterations:
        yield Ignored(
            "the no-slip solver, option noslip_iterations="
            f"{model.opt.noslip_iterations}",
            "set it to 0",
        )
    if off := model.opt.disableactuator:
        groups = [group for group in range(31) if off >> group & 1]
        if np.isin(model.actuator_group, groups).any():
            yield Ignored(
                f"disabled groups of actuators, option actuatorgroupdisable={groups}",
                "remove these actuators, or set model.opt.disableactuator=0",
            )
    for name in sorted(set(dir(default)) - carried):
        if name in ("noslip_iterations", "disableactuator") or name.startswith("_"):
            continue
        if callable(getattr(default, name)) or _IRRELEVANT_OPTIONS.fullmatch(name):
            continue
        value = getattr(model.opt, name)
        if not np.array_equal(value, getattr(default, name)):
            yield Ignored(
                f"option {name}={value}",
                "unknown option; reset it if it affects the simulation",
                known=False,
            )


def _flags(model: MjModel) -> Iterator[Ignored]:
    on, off = mujoco.mjtEnableBit, mujoco.mjtDisableBit
    for bit, words in ((on.mjENBL_SLEEP, "sleeping bodies"), (on.mjENBL_IPC, "IPC")):
        if model.opt.enableflags & bit:
            yield Ignored(f"{words}, flag {bit.name}", "clear model.opt.enableflags")
    both = int(off.mjDSBL_SPRING | off.mjDSBL_DAMPER)
    if model.opt.disableflags & both not in (0, both):
        # MJX then disables springs, damping and gravity compensation together.
        yield Ignored(
            "disabling springs without damping or damping without springs, flags "
            "mjDSBL_SPRING and mjDSBL_DAMPER",
            "set the stiffness or the damping to 0 instead",
        )


def _fluid(model: MjModel) -> Iterator[Ignored]:
    option = model.opt
    if not (option.density > 0 or option.viscosity > 0 or np.any(option.wind)):
        return
    geoms = np.flatnonzero(model.geom_fluid[:, 0] > 0)
    if geoms.size:
        yield Ignored(
            f'the ellipsoid model of fluids, fluidshape="ellipsoid"'
            f"{_element(model, 'geom_fluid', int(geoms[0]))}",
            'use fluidshape="none"',
        )


def _sensors(model: MjModel) -> Iterator[Ignored]:
    kinds = mujoco.mjtSensor
    for i in range(model.nsensor):
        sensor, kind = model.sensor(i), kinds(model.sensor_type[i])
        label = f"sensor {sensor.name or i!r}"
        what, reduce = model.sensor_intprm[i][:2]
        if kind.name.removeprefix("mjSENS_") not in SENSORS:
            yield Ignored(f"{label} of type {kind.name}", "remove it")
        elif kind in (kinds.mjSENS_FORCE, kinds.mjSENS_TORQUE):
            if has_spatial_tendon(model):
                yield Ignored(
                    f"the forces of spatial tendons in {label}", "remove the sensor"
                )
        elif kind == kinds.mjSENS_CONTACT:
            if model.sensor_cutoff[i] > 0:
                yield Ignored(f"the cutoff of contact {label}", "remove it")
            if reduce == 0 and what != 1 and not _only_pair(model, i):
                # MJX returns the first contacts of the model, whatever their geoms.
                yield Ignored(
                    f'the geoms that contact {label} selects, with reduce="none"',
                    'use reduce="mindist" or "maxforce", or data="found" alone',
                )
        elif kind == kinds.mjSENS_RANGEFINDER:
            site = model.sensor_objtype[i] == mujoco.mjtObj.mjOBJ_SITE
            if not site or what not in (0, 1) or model.sensor_dim[i] != 1:
                yield Ignored(
                    f"all but the distance of rangefinder {label}",
                    "attach it to a site, with no other data",
                )
            hidden = np.flatnonzero(np.isin(model.geom_type, _NO_RAYS))
            if hidden.size:
                yield Ignored(
                    f"in rangefinder {label} the cylinders, height fields and SDFs"
                    f"{_element(model, 'geom', int(hidden[0]))}",
                    "use other geoms",
                )


def _only_pair(model: MjModel, sensor: int) -> bool:
    """Whether all possible contacts of the model are between the sensor's geoms."""
    geoms = {
        int(i)
        for i, kind in (
            (model.sensor_objid[sensor], model.sensor_objtype[sensor]),
            (model.sensor_refid[sensor], model.sensor_reftype[sensor]),
        )
        if kind == mujoco.mjtObj.mjOBJ_GEOM
    }
    return all(geoms <= {int(g1), int(g2)} for g1, g2, _ in geom_pairs(model))
