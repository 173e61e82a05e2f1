"""Conditions an agent is tested under: changed observations, physics, latent states."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from core.latent_error import LatentError, zero_drift
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
    physics: dict[str, Float[np.ndarray, " conditions"]] | None = None
    """Arguments of `MjxEnv.with_physics`; those that are missing stay as they are."""
    latent: LatentError | None = None
    """The error of latent states, each number of shape `[conditions]`; or None."""

    @property
    def gravity(self) -> Float[np.ndarray, " conditions"] | None:
        """m/s²; None for the model's own."""
        return (self.physics or {}).get("gravity")

    def after(self, count: int) -> "Conditions":
        """Those after the first `count`."""
        rest = lambda x: x[count:]
        return Conditions(
            rest(self.labels), rest(self.perturbs), *jax.tree.map(rest, self[2:])
        )


PLAIN = Conditions(("none",), ("none",), None)
"""The one condition that changes nothing."""

NO_ERROR = zero_drift(0.0)


def stack_errors(errors: Sequence[LatentError]) -> LatentError:
    """One error for each condition."""
    return jax.tree.map(lambda *xs: jnp.stack([jnp.asarray(x) for x in xs]), *errors)


def with_and_without(error: LatentError | None, *, first: str) -> Conditions:
    """The conditions `with error` and `without error`; without an error the plain one.

    Args:
        first: the name of the one that comes first.
    """
    if error is None:
        return PLAIN
    both = {"with error": error, "without error": NO_ERROR}
    names = sorted(both, key=lambda name: name != first)
    latent = stack_errors([both[name] for name in names])
    return Conditions(tuple(names), ("none", "none"), None, latent=latent)


def read_conditions(
    env: Env,
    perturbs: str,
    gravities: str,
    errors: Mapping[str, LatentError] | None = None,
) -> Conditions:
    """Every perturbation under every gravity with every latent error.

    Args:
        perturbs: short forms of `envs.perturb.parse`, or sets of them by their names,
            with spaces between them; empty for none.
        gravities: magnitudes in m/s² likewise; empty for the model's own.
        errors: latent errors by their names; empty or None for none.

    Raises:
        UserError: one of them is not understood, or this environment has no gravity.
    """
    texts = perturb.expanded(perturbs.split()) or ["none"]
    eyes = [read_perturbation("--perturb", text, env) for text in texts]
    changed = set(texts) != {"none"}
    words = gravities.split()
    if words and not isinstance(env, MjxEnv | PixelEnv):
        raise UserError(
            f"--gravity {gravities}: {env.spec.name} has no gravity; allowed: runs of "
            "the MuJoCo environments"
        )
    numbers = [_gravity(word) for word in words]
    names = list(errors or {})
    grid = [
        (i, g, e)
        for e in range(max(1, len(names)))
        for g in range(max(1, len(numbers)))
        for i in range(len(texts))
    ]

    def label(i: int, g: int, e: int) -> str:
        parts = [texts[i]] * (texts != ["none"] or not (numbers or names))
        parts += [f"gravity {numbers[g]:g}"] if numbers else []
        return " ".join(parts + ([f"latent error {names[e]}"] if names else []))

    gravity = np.array([numbers[g] for _, g, _ in grid], np.float32) if words else None
    latent = (
        stack_errors([(errors or {})[names[e]] for *_, e in grid]) if names else None
    )
    return Conditions(
        tuple(label(*each) for each in grid),
        tuple(texts[i] for i, _, _ in grid),
        perturb.stack([eyes[i] for i, _, _ in grid]) if changed else None,
        None if gravity is None else {"gravity": gravity},
        latent,
    )


def read_errors(words: str, own: LatentError | None) -> dict[str, LatentError]:
    """Latent errors by their names.

    Args:
        words: `none`, `run` (that of the run), `drift` (the paper's) or a variance;
            with spaces between them.
        own: the error that the run was trained with.

    Raises:
        UserError: one of them is not understood.
    """
    return {word: _error(word, own) for word in words.split()}


def _error(word: str, own: LatentError | None) -> LatentError:
    known = {"none": NO_ERROR, "drift": LatentError((0.0, 5.0), (0.0, 5.0))}
    if word == "run" and own is not None:
        return own
    if word in known:
        return known[word]
    try:
        variance = float(word)
    except ValueError:
        variance = float("nan")
    if not 0 <= variance < float("inf"):
        raise UserError(
            f"--latent-error {word}: not understood; allowed: none, drift, a variance, "
            "or run (of a run that was trained with an error), several with spaces"
        )
    return zero_drift(variance)


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
