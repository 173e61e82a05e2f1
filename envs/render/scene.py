"""The static part of a scene: what a renderer reads once from a model.

Plain Python and numpy values, which become constants of the compiled program.
"""

import dataclasses

import numpy as np

from envs.mjx._mjx import mujoco

type Color = tuple[float, float, float]

PLANE = int(mujoco.mjtGeom.mjGEOM_PLANE)
SPHERE = int(mujoco.mjtGeom.mjGEOM_SPHERE)
CAPSULE = int(mujoco.mjtGeom.mjGEOM_CAPSULE)
ELLIPSOID = int(mujoco.mjtGeom.mjGEOM_ELLIPSOID)
CYLINDER = int(mujoco.mjtGeom.mjGEOM_CYLINDER)
BOX = int(mujoco.mjtGeom.mjGEOM_BOX)
SUPPORTED = (PLANE, SPHERE, CAPSULE, ELLIPSOID, CYLINDER, BOX)


@dataclasses.dataclass(frozen=True)
class Checker:
    """A checkerboard of tiles of 2×2 cells.

    Attributes:
        first: colour of the cells on the diagonal of a tile, where both coordinates
            are in its first half or both in its second.
        second: colour of the other cells.
        repeat: tiles per 2 m along the surface's x and y.
        corner: where the first tile begins, metres from the centre along -x and y.
    """

    first: Color
    second: Color
    repeat: tuple[float, float]
    corner: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Solid:
    """One visible geom, site, or link of a tendon.

    Attributes:
        kind: type of the shape, a number of `mujoco.mjtGeom`.
        size: half sizes in metres, as in MuJoCo.
        color: red, green, blue in [0, 1].
        checker: the pattern that replaces the colour, if any.
        source: "geom", "site" or "tendon".
        index: index of the geom, site or tendon in the model.
    """

    kind: int
    size: tuple[float, float, float]
    color: Color
    checker: Checker | None
    source: str
    index: int


@dataclasses.dataclass(frozen=True)
class Cord:
    """A tendon that is a string between two sites.

    Attributes:
        sites: indices of the sites at its two ends.
        length: length of the string without tension, metres.
    """

    sites: tuple[int, int]
    length: float


@dataclasses.dataclass(frozen=True)
class Mount:
    """How a camera or a light is attached to a body.

    Attributes:
        mode: a number of `mujoco.mjtCamLight`.
        body: the body that carries it.
        target: the body that it points at, -1 without one.
        offset: position relative to the body, metres; in the body's frame, or in the
            world's if it tracks.
        rotation: orientation `(3, 3)`, in the same frame; a light has its direction
            in the third column.
        lamp: whether it is a light. The third axis of a light points to the target,
            that of a camera away from it.
    """

    mode: int
    body: int
    target: int
    offset: np.ndarray
    rotation: np.ndarray
    lamp: bool


@dataclasses.dataclass(frozen=True)
class Light:
    """A light of the model.

    Attributes:
        mount: how it is attached.
        spot: whether it is a spotlight, which shines from a point into a cone; the rays
            of other lights are parallel.
        ambient: colour that it adds everywhere.
        diffuse: colour that it adds at normal incidence.
        attenuation: constant, linear and quadratic coefficients of the distance.
        cos_cutoff: cosine of the cone's half angle.
        exponent: power of the cosine by which intensity falls inside the cone.
    """

    mount: Mount
    spot: bool
    ambient: Color
    diffuse: Color
    attenuation: Color
    cos_cutoff: float
    exponent: float


@dataclasses.dataclass(frozen=True)
class Scene:
    """Everything that a renderer reads from a model.

    Attributes:
        solids: the visible shapes, in the order of a pose's rows: geoms, sites, and
            then the links of each cord.
        cords: the visible tendons.
        lights: the model's own lights.
        head_ambient: ambient colour of the headlight.
        head_diffuse: diffuse colour of the headlight.
        sky: colours straight above and straight below.
        camera: how the camera is attached.
        tan_half: tangent of half the vertical field of view.
        near: near clipping distance along the optical axis, metres.
        far: far clipping distance, metres.
    """

    solids: tuple[Solid, ...]
    cords: tuple[Cord, ...]
    lights: tuple[Light, ...]
    head_ambient: Color
    head_diffuse: Color
    sky: tuple[Color, Color]
    camera: Mount
    tan_half: float
    near: float
    far: float
