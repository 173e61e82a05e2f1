"""The kinds of conditions of the paper's grids."""

from collections.abc import Sequence
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

PHYSICS = frozenset({"gravity", "mass", "friction", "gain"})


class Kind(NamedTuple):
    """Conditions of one kind, such as several gravities."""

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
    if (model := model_of(env)) is not None:
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


def completed(env: Env, conditions: Conditions) -> Conditions:
    """The same conditions, with every change that there can be: most of them none.

    So all conditions of an environment are data of the same program.
    """
    count = len(conditions.labels)
    model = model_of(env)
    eyes = conditions.perturbation
    if eyes is None:
        none = perturb.parse("none", pixels=env.spec.is_image)
        eyes = perturb.stack([none] * count)
    physics = None
    if model is not None:
        values = {name: np.ones(count) for name in PHYSICS - model.fixed_physics}
        if "gravity" in values:
            values["gravity"] *= model.own_gravity
        physics = values | (conditions.physics or {})
    errors = conditions.latent
    if errors is None:
        errors = stack_errors([zero_drift(0.0)] * count)
    return Conditions(conditions.labels, conditions.perturbs, eyes, physics, errors)


def model_of(env: Env) -> MjxEnv | None:
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
