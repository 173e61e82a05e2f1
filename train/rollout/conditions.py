"""Conditions an agent is tested under: what perturbs its observations, and gravity."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from envs import Env, perturb
from envs.mjx.env import MjxEnv
from envs.perturb import Perturbation
from envs.render.pixels import PixelEnv
from train.errors import UserError


class Conditions(NamedTuple):
    """Several conditions, each field with a leading axis of them."""

    labels: tuple[str, ...]
    perturbs: tuple[str, ...]
    """The perturbations' short forms."""
    perturbation: Perturbation | None
    """None leaves observations as they are."""
    gravity: Float[np.ndarray, " conditions"] | None
    """m/s²; None leaves it as it is."""


PLAIN = Conditions(("none",), ("none",), None, None)
"""The one condition that changes nothing."""


def read_conditions(env: Env, perturbs: str, gravities: str) -> Conditions:
    """Every perturbation under every gravity.

    Args:
        perturbs: short forms of `envs.perturb.parse`, with spaces between them; empty
            for none.
        gravities: magnitudes in m/s² likewise; empty for the model's own.

    Raises:
        UserError: one of them is not understood, or this environment has no gravity.
    """
    texts = perturbs.split() or ["none"]
    eyes = [read_perturbation("--perturb", text, env) for text in texts]
    changed = set(texts) != {"none"}
    words = gravities.split()
    if not words:
        stacked = perturb.stack(eyes) if changed else None
        return Conditions(tuple(texts), tuple(texts), stacked, None)
    if not isinstance(env, MjxEnv | PixelEnv):
        raise UserError(
            f"--gravity {gravities}: {env.spec.name} has no gravity; allowed: runs of "
            "the MuJoCo environments"
        )
    numbers = [_gravity(word) for word in words]
    pairs = [(i, g) for g in range(len(numbers)) for i in range(len(texts))]
    labels = [
        " ".join([texts[i]] * (texts != ["none"]) + [f"gravity {numbers[g]:g}"])
        for i, g in pairs
    ]
    stacked = perturb.stack([eyes[i] for i, _ in pairs]) if changed else None
    return Conditions(
        tuple(labels),
        tuple(texts[i] for i, _ in pairs),
        stacked,
        np.array([numbers[g] for _, g in pairs], np.float32),
    )


def read_perturbation(flag: str, text: str, env: Env) -> Perturbation:
    """The perturbation of this environment's observations that a flag asks for.

    Raises:
        UserError: it is not understood, or does not fit the observations.
    """
    try:
        return perturb.parse(text, pixels=env.spec.is_image)
    except ValueError as error:
        raise UserError(f"{flag} {text}: {error}") from None


def _gravity(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = float("nan")
    if not 0 <= value < float("inf"):
        raise UserError(
            f"--gravity {word}: not a gravity; allowed: numbers >= 0, in m/s², with "
            "spaces between them"
        )
    return value
