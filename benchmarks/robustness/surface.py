"""The surface: combinations of changes, and what a smooth model has to do with it."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from benchmarks.robustness.correlate import correlate, paragraph, relative_drop
from benchmarks.robustness.kinds import PHYSICS, model_of
from benchmarks.robustness.play import Trained
from core.latent_error import zero_drift
from envs import Env, perturb
from train.rollout.conditions import Conditions, stack_errors

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


LAYOUT = ("axes", "left_out", "grid")
"""Of a surface, what says which conditions it has."""


class Surface(NamedTuple):
    """Combinations of some axes; the first one is the unchanged condition."""

    axes: dict[str, tuple[float, ...]]
    grid: tuple[tuple[float, ...], ...]
    """The level of every axis, of each condition."""
    conditions: Conditions
    left_out: dict[str, str]
    """Axes that this environment does not have, and why."""


def surface_of(
    env: Env, axes: Mapping[str, Sequence[float]], *, changed: int | None = None
) -> Surface:
    """The combinations of the axes that this environment has.

    Args:
        axes: levels of the names of `AXES`, the unchanged one first.
        changed: at most so many axes differ from the unchanged condition; None: all, a
            full factorial.
    """
    model = model_of(env)
    left_out = _left_out(env)
    used = {
        name: tuple(levels) for name, levels in axes.items() if name not in left_out
    }
    limit = len(used) if changed is None else changed
    first = tuple(levels[0] for levels in used.values())
    grid = tuple(
        row
        for row in itertools.product(*used.values())
        if sum(x != y for x, y in zip(row, first, strict=True)) <= limit
    )
    columns = dict(zip(used, np.array(grid).T, strict=True))
    physics = {name: x for name, x in columns.items() if name in PHYSICS}
    if model is not None and "gravity" in physics:
        physics["gravity"] = physics["gravity"] * model.own_gravity
    noise = [f"noise:{variance:g}" for variance in columns["noise"]]
    eyes = [perturb.parse(form, pixels=env.spec.is_image) for form in noise]
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
            perturb.stack(eyes) if len(set(noise)) > 1 else None,
            physics or None,
            errors if len(used["latent"]) > 1 else None,
        ),
        {name: why for name, why in left_out.items() if name in axes},
    )


def _left_out(env: Env) -> dict[str, str]:
    """Axes that have no effect in an environment."""
    model = model_of(env)
    if model is None:
        return dict.fromkeys(sorted(PHYSICS), "no environment of MuJoCo")
    found = dict.fromkeys(
        sorted(model.fixed_physics), "cannot be changed in this model"
    )
    if not model.has_contacts:
        found["friction"] = "this model has no contacts"
    return found


def summarize(
    surface: Mapping[str, Any],
    who: Sequence[Trained],
    returns: Float[np.ndarray, "agents conditions"],
    norms: Mapping[str, Float[np.ndarray, " agents"]],
) -> dict[str, Any]:
    """What is written of a surface: returns, drops, norms, correlations, in words.

    Args:
        surface: its `axes`, `left_out` and `grid`.
        returns: means over episodes.
    """
    clean, drop = returns[:, 0], relative_drop(returns)
    last = np.where([one.last for one in who], drop, np.nan)
    correlations = {
        name: {
            "drop": correlate(norm, drop, who),
            "drop given return": correlate(norm, drop, who, given=clean),
            "drop, last agents": correlate(norm, last, who),
            "return": correlate(norm, clean, who),
        }
        for name, norm in norms.items()
    }
    skill = correlate(clean, drop, who)
    return {
        **{name: surface[name] for name in LAYOUT},
        "agents": [one._asdict() for one in who],
        "returns": returns.tolist(),
        "clean": clean.tolist(),
        "worst": returns.min(-1).tolist(),
        "drop": [float(x) if np.isfinite(x) else None for x in drop],
        "norms": {name: norm.tolist() for name, norm in norms.items()},
        "correlations": {
            name: {what: c and c._asdict() for what, c in row.items()}
            for name, row in correlations.items()
        },
        "return and drop": skill and skill._asdict(),
        "paragraph": paragraph(correlations, skill),
    }


def singles(surface: Mapping[str, Any]) -> dict[str, int]:
    """The conditions in which one axis alone is changed: their names and places."""
    names = list(surface["axes"])
    first = surface["grid"][0]
    found = {}
    for place, row in enumerate(surface["grid"]):
        changed = [i for i, (x, y) in enumerate(zip(row, first, strict=True)) if x != y]
        if len(changed) == 1:
            (axis,) = changed
            factor = "× " if names[axis] in PHYSICS else "σ² "
            found[f"{names[axis]} {factor}{row[axis]:g}"] = place
    return found
