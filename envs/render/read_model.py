"""Reads the static scene of a MuJoCo model."""

from collections.abc import Sequence

import numpy as np

from envs.mjx._mjx import MjModel, mujoco
from envs.render.scene import (
    CAPSULE,
    PLANE,
    SUPPORTED,
    Checker,
    Color,
    Cord,
    Light,
    Mount,
    Scene,
    Solid,
)
from envs.render.tendon import LINKS

# The colour of a geom or site that sets none of its own.
_UNSET = np.array([0.5, 0.5, 0.5, 1.0], np.float32)


def read_scene(model: MjModel, camera: int | str, groups: Sequence[int]) -> Scene:
    """The scene of a model, as seen by one of its cameras.

    Args:
        model: the host-side MuJoCo model.
        camera: number or name of the camera.
        groups: the groups of geoms, sites and tendons that are visible.

    Raises:
        ValueError: the model has no such camera, or something visible in it cannot
            be drawn.
    """
    index = _camera_index(model, camera)
    _check_camera(model, index)
    for kind, count in (("skin", model.nskin), ("flex", model.nflex)):
        if count:
            raise ValueError(
                f"the model has a {kind}, which cannot be drawn: remove it"
            )
    visual, extent = model.vis, float(model.stat.extent)
    head = visual.headlight
    solids = _solids(model, groups)
    if not solids:
        raise ValueError(
            f"groups={tuple(groups)} shows nothing of the model: include the group "
            "of a visible geom or site"
        )
    cords = _cords(model, groups)
    for tendon, cord in cords.items():
        link = (float(model.tendon_width[tendon]), cord.length / (2 * LINKS), 0.0)
        color = _three(model.tendon_rgba[tendon])
        solids += [Solid(CAPSULE, link, color, None, "tendon", tendon)] * LINKS
    return Scene(
        solids=tuple(solids),
        cords=tuple(cords.values()),
        lights=tuple(_light(model, i) for i in range(model.nlight) if _lit(model, i)),
        head_ambient=_three(head.ambient) if head.active else (0.0, 0.0, 0.0),
        head_diffuse=_three(head.diffuse) if head.active else (0.0, 0.0, 0.0),
        sky=_sky(model),
        camera=_mount(model, "cam", index, _rotations(model, index)),
        tan_half=float(np.tan(np.deg2rad(model.cam_fovy[index]) / 2)),
        near=float(visual.map.znear) * extent,
        far=float(visual.map.zfar) * extent,
    )


def _camera_index(model: MjModel, camera: int | str) -> int:
    names = [model.camera(i).name for i in range(model.ncam)]
    if isinstance(camera, str) and camera in names:
        return names.index(camera)
    if not isinstance(camera, str) and 0 <= camera < model.ncam:
        return int(camera)
    if not model.ncam:
        raise ValueError(
            f"camera={camera!r}: the model has no camera: put a <camera> into its "
            "worldbody or a body"
        )
    raise ValueError(
        f"camera={camera!r} is not in the model: use a number below {model.ncam} or "
        f"one of {names}"
    )


def _check_camera(model: MjModel, index: int) -> None:
    orthographic = mujoco.mjtProjection.mjPROJ_ORTHOGRAPHIC
    if model.cam_projection[index] == orthographic or model.cam_sensorsize[index].any():
        raise ValueError(
            f"camera {model.camera(index).name!r} is orthographic or sets sensorsize, "
            "which cannot be drawn: use a perspective camera with a fovy"
        )


def _solids(model: MjModel, groups: Sequence[int]) -> list[Solid]:
    found = []
    for source in ("geom", "site"):
        column = {
            name: getattr(model, f"{source}_{name}")
            for name in ("type", "size", "rgba", "matid", "group")
        }
        for index in range(len(column["type"])):
            rgba, material = column["rgba"][index], int(column["matid"][index])
            # A colour of its own takes precedence over that of its material.
            if material >= 0 and np.array_equal(rgba, _UNSET):
                rgba = model.mat_rgba[material]
            if column["group"][index] not in groups or rgba[3] == 0:
                continue
            kind = int(column["type"][index])
            name = f"{source} {getattr(model, source)(index).name!r}"
            if kind not in SUPPORTED:
                raise ValueError(
                    f"{name} has a shape that cannot be drawn (mjtGeom {kind}): put it "
                    f"in a group that is not in groups={tuple(groups)}"
                )
            if rgba[3] < 1:
                raise ValueError(
                    f"{name} is transparent (rgba {rgba.tolist()}), which cannot be "
                    "drawn: set its alpha to 1, or to 0 to hide it"
                )
            textured = material >= 0 and _texture(model, material) >= 0
            if textured and kind != PLANE:
                raise ValueError(
                    f"{name} has a texture, which can be drawn on planes only: give it "
                    "a material without a texture"
                )
            checker = _checker(model, material, index, rgba[:3]) if textured else None
            found.append(
                Solid(
                    kind=kind,
                    size=_three(column["size"][index]),
                    color=_three(rgba),
                    checker=checker,
                    source=source,
                    index=index,
                )
            )
    return found


def _cords(model: MjModel, groups: Sequence[int]) -> dict[int, Cord]:
    """The visible spatial tendons, by their number."""
    joint = int(mujoco.mjtWrap.mjWRAP_JOINT)
    site = int(mujoco.mjtWrap.mjWRAP_SITE)
    found = {}
    for tendon in range(model.ntendon):
        start, count = int(model.tendon_adr[tendon]), int(model.tendon_num[tendon])
        kinds = model.wrap_type[start : start + count]
        hidden = model.tendon_rgba[tendon, 3] == 0
        if kinds[0] == joint or hidden or model.tendon_group[tendon] not in groups:
            continue
        if list(kinds) != [site, site] or not model.tendon_limited[tendon]:
            raise ValueError(
                f"tendon {model.tendon(tendon).name!r} cannot be drawn: it must run "
                "between two sites and have a limited length, or be in a group that "
                f"is not in groups={tuple(groups)}"
            )
        first, second = (int(s) for s in model.wrap_objid[start : start + 2])
        found[tendon] = Cord((first, second), float(model.tendon_range[tendon, 1]))
    return found


def _texture(model: MjModel, material: int) -> int:
    """The number of a material's texture, -1 if it has none."""
    return int(model.mat_texid[material, int(mujoco.mjtTextureRole.mjTEXROLE_RGB)])


def _checker(model: MjModel, material: int, geom: int, tint: np.ndarray) -> Checker:
    """The checkerboard of a plane's material, in the colour of the plane."""
    texture = _texture(model, material)
    pixels = _pixels(model, texture)
    height, width = pixels.shape[:2]
    first = pixels[height // 4, width // 4]
    second = pixels[height // 4, 3 * width // 4]
    inner = pixels[1:-1, 1:-1]
    quarters = np.zeros(pixels.shape[:2], bool)
    quarters[: height // 2, width // 2 :] = quarters[height // 2 :, : width // 2] = True
    expected = np.where(quarters[..., None], second, first)[1:-1, 1:-1]
    if not np.array_equal(inner, expected):
        raise ValueError(
            f"texture {model.texture(texture).name!r} is no checkerboard, the "
            "only texture that can be drawn: use builtin='checker' with mark 'edge' or "
            "'none'"
        )
    half = np.array(model.geom_size[geom][:2])
    repeat = np.array(model.mat_texrepeat[material], float)
    if not model.mat_texuniform[material]:
        # The texture is stretched over the plane in directions where it is finite.
        repeat = repeat / np.where(half > 0, half, 1.0)
    return Checker(
        first=_three(first / 255 * tint),
        second=_three(second / 255 * tint),
        repeat=(float(repeat[0]), float(repeat[1])),
        corner=(float(half[0]), float(half[1])),
    )


def _sky(model: MjModel) -> tuple[Color, Color]:
    """Colours of the sky straight above and below; black where there is no sky.

    Stars are far smaller than a pixel, so their mean light is added to the colours.
    """
    skies = np.flatnonzero(model.tex_type == mujoco.mjtTexture.mjTEXTURE_SKYBOX)
    if not len(skies):
        return (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)
    pixels = _pixels(model, int(skies[0]))
    # Six square faces, stacked vertically. The third is above and the fourth below;
    # the others are sides, of which the first is used.
    edge = pixels.shape[1]
    near = slice(edge // 2 - edge // 16, edge // 2 + edge // 16)
    faces = pixels.reshape(6, edge, edge, 3)[:, near, near]
    side, above, below = faces[0], faces[2], faces[3]
    plain = np.median(side, axis=1, keepdims=True)
    stars = np.any(np.abs(side - plain) > 8, axis=-1)
    share = stars.mean()
    glow = side[stars].mean(axis=0) if share else np.zeros(3)
    poles = [np.median(face, axis=(0, 1)) for face in (above, below)]
    if not np.allclose(plain.mean(axis=(0, 1)), np.mean(poles, axis=0), atol=3):
        raise ValueError(
            "the skybox is no gradient, the only sky that can be drawn: use "
            "builtin='gradient'"
        )
    above, below = (((1 - share) * c + share * glow) / 255 for c in poles)
    return _three(above), _three(below)


def _pixels(model: MjModel, texture: int) -> np.ndarray:
    width, height = int(model.tex_width[texture]), int(model.tex_height[texture])
    channels = int(model.tex_nchannel[texture])
    start = int(model.tex_adr[texture])
    data = model.tex_data[start : start + width * height * channels]
    return data.reshape(height, width, channels)[..., :3].astype(float)


def _lit(model: MjModel, index: int) -> bool:
    return bool(model.light_active[index])


def _light(model: MjModel, index: int) -> Light:
    spot = mujoco.mjtLightType.mjLIGHT_SPOT
    parallel = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
    kind = int(model.light_type[index])
    if kind not in (spot, parallel):
        raise ValueError(
            f"light {model.light(index).name!r} is of a type that cannot be drawn "
            f"(mjtLightType {kind}): use a spot or a directional light"
        )

    def columns(direction: np.ndarray) -> np.ndarray:
        return np.stack([np.zeros(3), np.zeros(3), direction], axis=1)

    rotations = {
        "fixed": columns(model.light_dir[index]),
        "tracking": columns(model.light_dir0[index]),
    }
    return Light(
        mount=_mount(model, "light", index, rotations),
        spot=kind == spot,
        ambient=_three(model.light_ambient[index]),
        diffuse=_three(model.light_diffuse[index]),
        attenuation=_three(model.light_attenuation[index]),
        cos_cutoff=float(np.cos(np.deg2rad(model.light_cutoff[index]))),
        exponent=float(model.light_exponent[index]),
    )


def _rotations(model: MjModel, camera: int) -> dict[str, np.ndarray]:
    fixed = np.zeros(9)
    mujoco.mju_quat2Mat(fixed, model.cam_quat[camera])
    return {
        "fixed": fixed.reshape(3, 3),
        "tracking": np.reshape(model.cam_mat0[camera], (3, 3)),
    }


def _mount(
    model: MjModel, kind: str, index: int, rotations: dict[str, np.ndarray]
) -> Mount:
    mode = int(getattr(model, f"{kind}_mode")[index])
    modes = mujoco.mjtCamLight
    offsets = {
        int(modes.mjCAMLIGHT_TRACK): "pos0",
        int(modes.mjCAMLIGHT_TRACKCOM): "poscom0",
    }
    tracking = mode in offsets
    return Mount(
        mode=mode,
        body=int(getattr(model, f"{kind}_bodyid")[index]),
        target=int(getattr(model, f"{kind}_targetbodyid")[index]),
        offset=np.array(getattr(model, f"{kind}_{offsets.get(mode, 'pos')}")[index]),
        rotation=rotations["tracking" if tracking else "fixed"],
        lamp=kind == "light",
    )


def _three(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    first, second, third = (float(x) for x in values[:3])
    return first, second, third
