"""What a renderer knows of a model before it sees a pose.

It is plain Python and numpy: the compiled program holds it as constants.
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
        first: colour of the cells where both coordinates are in the same half tile.
        second: colour of the others.
        repeat: tiles per 2 m along the surface's x and y.
        corner: where the first tile begins, metres from the centre along -x and y.
    """

    first: Color
    second: Color
    repeat: tuple[float, float]
    corner: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Solid:
    """One visible body part or site.

    Attributes:
        kind: type of the shape, a number of `mujoco.mjtGeom`.
        size: half sizes in metres, as in MuJoCo.
        color: red, green, blue in [0, 1].
        checker: the pattern that takes the place of the colour, if any.
        source: "geom", "site" or "tendon".
        index: number of the geom, site or tendon in the model.
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
        sites: its two ends.
        length: its own length, metres.
    """

    sites: tuple[int, int]
    length: float


@dataclasses.dataclass(frozen=True)
class Mount:
    """How a camera or a light is carried by a body.

    Attributes:
        mode: a number of `mujoco.mjtCamLight`.
        body: the body that carries it.
        target: the body it turns to, -1 without one.
        offset: metres from the body; in its frame, or in the world's if it tracks.
        rotation: orientation `(3, 3)`, in the same frame; a light has its direction
            in the third column.
        lamp: it is a light, whose third axis points to the target, not away from it.
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
        mount: where it hangs.
        spot: it shines from a point into a cone; else all its rays are parallel.
        ambient: colour it adds everywhere.
        diffuse: colour it adds where it shines at a right angle.
        attenuation: constant, linear and quadratic coefficient of the distance.
        cos_cutoff: cosine of the cone's half angle.
        exponent: power of the cosine with which the cone fades.
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
    """All of it.

    Attributes:
        solids: what can be seen, in the order of a pose's rows: geoms, sites, and
            then the links of each cord.
        cords: the visible tendons.
        lights: the model's own lights.
        head_ambient: colour the light at the camera adds everywhere.
        head_diffuse: colour it adds on what faces the camera.
        sky: colours straight above and straight below.
        camera: how the camera is carried.
        tan_half: tangent of half the vertical field of view.
        near: distance along the optical axis from which things are drawn, metres.
        far: distance up to which they are drawn, metres.
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
