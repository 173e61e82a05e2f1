"""Open-loop reconstructions under latent errors: the paper's Figures 7 and 8."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from benchmarks.robustness.play import Agents
from core.agent import Agent
from core.latent_error import LatentError, zero_drift
from core.transition import Transition
from envs import Env, VectorEnv
from train.errors import UserError
from train.rollout.openloop import CONTEXT, LENGTH, predict

EVERY = 5
"""Of the images, one in so many is shown."""


class Strip(NamedTuple):
    """One row of the picture."""

    label: str
    images: Float[np.ndarray, "time height width 3"]
    error: float | None
    """Mean squared error of the imagined images, from 0 to 1; None of the truth."""


def errors_of(env: Env) -> dict[str, LatentError]:
    """No error, and the two that the paper has for a task (section 5).

    Its Figure 7, Quadruped, names a variance of 5 where the text has .1: the text's.
    """
    variance = 0.1 if env.spec.name.startswith("quadruped") else 5.0
    return {
        "no error": zero_drift(0.0),
        f"zero drift, σ² = {variance:g}": zero_drift(variance),
        "drift, U[0, 5]": LatentError((0.0, 5.0), (0.0, 5.0)),
    }


def make_strips(agents: Agents, *, seed: int) -> list[Strip]:
    """One played episode, and what the first agent of each arm makes of it.

    The first agent plays, and every model watches the first images and imagines the
    rest from the actions, its latent states with each error.

    Raises:
        UserError: these agents see no images.
    """
    env = agents.env
    if not env.spec.is_image:
        raise UserError(
            f"--strips: these runs of {env.spec.name} see states; allowed: runs with "
            "--obs pixels"
        )
    one = lambda index: jax.tree.map(lambda x: x[index], agents.stacked)
    play_key, predict_key = jax.random.split(jax.random.key(seed))
    length = min(LENGTH, env.spec.episode_decisions)
    context = min(CONTEXT, length // 2)
    rows = jax.jit(_play, static_argnums=(0, 1))(env, length, one(0), play_key)
    known = ~np.cumsum(np.asarray(rows.is_first)[context:, 0], dtype=bool)
    strips: list[Strip] = []
    shown = jax.jit(predict, static_argnums=3)
    first: dict[str, int] = {}
    for index, who in enumerate(agents.who):
        first.setdefault(who.arm, index)
    for arm, index in first.items():
        agent = one(index)
        initial = agent.model.rssm.initial(1)
        for name, error in errors_of(env).items():
            found = shown(agent, initial, rows, context, key=predict_key, error=error)
            truth, model = (np.asarray(x)[:, 0] for x in (found.truth, found.model))
            if not strips:
                strips.append(Strip("truth", truth, None))
            squares = np.mean(np.square(model - truth)[context:], axis=(1, 2, 3))
            mean = float(squares[known].mean()) if known.any() else None
            strips.append(Strip(f"{arm}\n{name}", model, mean))
    return strips


def _play(env: Env, length: int, agent: Agent, key: Any) -> Transition:
    """The first rows of an episode, `[time, 1]`; actions are samples of the policy."""
    vector = VectorEnv(env, 1)
    reset_key, act_key = jax.random.split(key)
    state, timestep = vector.reset(reset_key)
    latent = agent.model.rssm.initial(1)

    def step(carry: Any, key: Any) -> tuple[Any, Transition]:
        state, now, latent, last = carry
        row = Transition(
            now.obs, last, now.reward, now.is_first, now.is_last, now.is_terminal
        )
        latent, action = agent.act(latent, now.obs, last, now.is_first, key=key)
        return (*vector.step(state, action), latent, action), row

    nothing = jnp.zeros((1, env.spec.action_dim), jnp.float32)
    start = state, timestep, latent, nothing
    return jax.lax.scan(step, start, jax.random.split(act_key, length))[1]


def draw_strips(strips: list[Strip]) -> Figure:
    """A row of images for each strip; watched images have a green frame."""
    shown = range(0, len(strips[0].images), EVERY)
    figure = Figure(
        figsize=(2.2 + 0.9 * len(shown), 0.3 + 0.95 * len(strips)),
        dpi=130,
        layout="constrained",
    )
    panels = figure.subplots(len(strips), len(shown), squeeze=False)
    for strip, row in zip(strips, panels, strict=True):
        for time, axes in zip(shown, row, strict=True):
            axes.imshow(np.clip(strip.images[time], 0, 1))
            axes.set(xticks=[], yticks=[])
            watched = strip.error is not None and time < CONTEXT
            for spine in axes.spines.values():
                spine.set_color("green" if watched else "black")
            if strip is strips[0]:
                axes.set_title(f"{time}", fontsize="x-small")
        label = strip.label
        if strip.error is not None:
            label += f"\nerror {strip.error:.2g}"
        row[0].set_ylabel(
            label, rotation=0, ha="right", va="center", fontsize="xx-small"
        )
    return figure
