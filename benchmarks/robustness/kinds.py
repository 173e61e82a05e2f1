"""The kinds of conditions: the paper's grids, and the surface over all of them."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from core.latent_error import LatentError, zero_drift
from envs import Env, perturb
from envs.mjx.env import MjxEnv
from envs.render.pixels import PixelEnv
from train.rollout.conditions import Conditions, stack_errors

GRAVITIES = (9.8, 6.0, 4.0, 2.0, 1.0)
"""m/s²: section 5 has 9.8 to 1, Tables 3 and 14 have the first four."""
MASSES = (1.0, 0.5, 0.75, 1.5, 2.0)
VARIANCES = tuple(step / 100 for step in range(5, 60, 5))
STATE_VARIANCES = (0.01, *VARIANCES)
LATENT_VARIANCES = (0.1, 0.5, 1.0, 5.0)

# Factors of gravity, mass, friction and motor gain, and variances of the sensors' noise
# and of the latent error. The first level of each is the one that training had.
AXES: Mapping[str, tuple[float, ...]] = {
    "gravity": (1.0, 0.5, 1.5),
    "mass": (1.0, 0.7, 1.5),
    "friction": (1.0, 0.6),
    "gain": (1.0, 0.7),
    "noise": (0.0, 0.1),
    "latent": (0.0,),
}
QUICK_AXES = {name: levels[:2] for name, levels in AXES.items()}


class Kind(NamedTuple):
    """Conditions of one kind: they are played in one compiled program."""

    name: str
    levels: tuple[float, ...]
    """The strength of each condition; the first one is the unchanged condition."""
    keys: tuple[str, ...]
    """`clean`, then `name:level`, as the paper's tables are labelled here."""
    conditions: Conditions


def kinds_of(env: Env, *, quick: bool = False) -> list[Kind]:
    """All kinds that fit an environment.

    Images: the paper's noise, rotations, masks and gravities, with the numbers of its
    Quadruped for one, of its Walker for any other. State vectors: noise of mean 0 on
    every entry in its own units, and gravity. Both: mass and the latent error; physics
    only for environments of MuJoCo.

    Args:
        quick: three levels of each.
    """
    quadruped = env.spec.name.startswith("quadruped")
    found = []
    if env.spec.is_image:
        forms = perturb.SETS["paper-quadruped" if quadruped else "paper-walker"]
        for name in ("noise", "rotate", "mask"):
            mine = [form for form in forms if form.startswith(name)]
            number = 1 if name == "noise" else 0
            levels = [float(form.split(":")[1].split(",")[number]) for form in mine]
            found.append(_of_observations(name, levels, mine, pixels=True))
    else:
        forms = [f"noise:{variance:g}" for variance in STATE_VARIANCES]
        found.append(_of_observations("noise", STATE_VARIANCES, forms, pixels=False))
    if (model := _model_of(env)) is not None:
        gravity = np.array([model.own_gravity, *GRAVITIES[1:]])
        found.append(_kind("gravity", GRAVITIES, physics={"gravity": gravity}))
        if "mass" not in model.fixed_physics:
            found.append(_kind("mass", MASSES, physics={"mass": np.array(MASSES)}))
    errors = [zero_drift(0.0), *map(zero_drift, LATENT_VARIANCES)]
    errors.append(LatentError((0.0, 5.0), (0.0, 5.0)))
    levels = (0.0, *LATENT_VARIANCES, float("inf"))  # inf: drift
    found.append(_kind("latent", levels, latent=stack_errors(errors)))
    return [_few(kind) for kind in found] if quick else found


def _of_observations(
    name: str, levels: Sequence[float], forms: Sequence[str], *, pixels: bool
) -> Kind:
    eyes = [perturb.parse(form, pixels=pixels) for form in ("none", *forms)]
    return _kind(name, (0.0, *levels), perturbation=perturb.stack(eyes))


def _kind(name: str, levels: Sequence[float], **changes: Any) -> Kind:
    keys = ["clean", *(f"{name}:{level:g}" for level in levels[1:])]
    keys = [key.replace("latent:inf", "latent:drift") for key in keys]
    none = ("none",) * len(keys)
    given = {"perturbation": None} | changes
    conditions = Conditions(tuple(keys), none, **given)
    return Kind(name, tuple(levels), tuple(keys), conditions)


def _model_of(env: Env) -> MjxEnv | None:
    """The environment of MuJoCo, rendered or not; None for any other."""
    env = env.inner if isinstance(env, PixelEnv) else env
    return env if isinstance(env, MjxEnv) else None


def _few(kind: Kind) -> Kind:
    """The first, the middle and the last level."""
    count = len(kind.levels)
    at = np.array([0, count // 2, count - 1])
    pick = lambda names: tuple(names[i] for i in at)
    return Kind(
        kind.name,
        pick(kind.levels),
        pick(kind.keys),
        Conditions(
            pick(kind.conditions.labels),
            pick(kind.conditions.perturbs),
            *jax.tree.map(lambda x: x[at], kind.conditions[2:]),
        ),
    )


class Surface(NamedTuple):
    """All combinations of some axes; the first one is the unchanged condition."""

    axes: dict[str, tuple[float, ...]]
    grid: tuple[tuple[float, ...], ...]
    """The level of every axis, of each condition."""
    conditions: Conditions


def surface_of(env: Env, axes: Mapping[str, Sequence[float]]) -> Surface:
    """The full factorial of the axes that this environment has.

    Args:
        axes: levels of the names of `AXES`, the unchanged one first.
    """
    physical = frozenset({"gravity", "mass", "friction", "gain"})
    model = _model_of(env)
    fixed = physical if model is None else model.fixed_physics
    used = {name: tuple(levels) for name, levels in axes.items() if name not in fixed}
    grid = tuple(itertools.product(*used.values()))
    columns = dict(zip(used, np.array(grid).T, strict=True))
    physics = {name: x for name, x in columns.items() if name in physical}
    if model is not None and "gravity" in physics:
        physics["gravity"] = physics["gravity"] * model.own_gravity
    pixels = env.spec.is_image
    noise = [f"noise:{variance:g}" for variance in columns["noise"]]
    eyes = perturb.stack([perturb.parse(form, pixels=pixels) for form in noise])
    errors = stack_errors([zero_drift(float(x)) for x in columns["latent"]])
    labels = tuple(
        " ".join(f"{name} {level:g}" for name, level in zip(used, row, strict=True))
        for row in grid
    )
    return Surface(
        used,
        grid,
        Conditions(
            labels,
            tuple(noise),
            eyes if len(set(noise)) > 1 else None,
            physics or None,
            errors if len(used["latent"]) > 1 else None,
        ),
    )
