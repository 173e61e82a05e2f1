"""A picture of what the penalty changes: class probabilities along a line of inputs."""

import textwrap
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from matplotlib.figure import Figure

from core.agent import Agent
from core.smoothness import Inputs, jacobian_norms

POINTS = 201
SHOWN = 4


class Line(NamedTuple):
    """The posterior q(z | h, e + t·δ) of one state, δ of the mean length of e.

    Attributes:
        t: from −1 to 1.
        probabilities: of all categoricals.
        jacobian: exact ‖J‖² at the state (t = 0), the mean over categoricals.
    """

    t: Float[Array, " points"]
    probabilities: Float[Array, "points K C"]
    jacobian: Float[Array, ""]


def along(agent: Agent, inputs: Inputs, *, key: PRNGKeyArray) -> Line:
    """From the middle one of the visited states, in a direction drawn at random."""
    rssm, place = agent.model.rssm, len(inputs.deter) // 2
    at = Inputs(*(x[place : place + 1] for x in inputs))
    direction = jax.random.normal(key, at.embed.shape)
    length = jnp.mean(jnp.linalg.norm(inputs.embed, axis=-1))
    t = jnp.linspace(-1.0, 1.0, POINTS)
    step = length * direction / jnp.linalg.norm(direction)
    deter = jnp.broadcast_to(at.deter, (POINTS, rssm.deter))
    logits = rssm.posterior_logits(deter, at.embed + t[:, None] * step)
    norm = jacobian_norms(rssm, at)["posterior"][0]
    return Line(t, rssm.categorical.dist(logits).probs, norm)


def draw(lines: Mapping[str, Line]) -> Figure:
    """A column for each agent: the categoricals that change most along its line."""
    figure = Figure(figsize=(4.2 * len(lines), 6), dpi=150, layout="constrained")
    panels = figure.subplots(SHOWN, len(lines), sharex=True, sharey=True, squeeze=False)
    for column, (name, line) in zip(panels.T, lines.items(), strict=True):
        t, probabilities = np.asarray(line.t), np.asarray(line.probabilities)
        change = np.abs(np.diff(probabilities, axis=0)).sum((0, 2))
        most = np.argsort(-change)[:SHOWN]
        column[0].set_title(
            f"{textwrap.fill(name, 46)}\nexact ‖J‖² at t = 0: "
            f"{float(line.jacobian):.2g}",
            fontsize="small",
        )
        for axes, row in zip(column, most, strict=False):
            axes.stackplot(t, probabilities[:, row].T)
            axes.axvline(0.0, color="black", linewidth=0.8)
            axes.set_ylabel(f"categorical {row}", fontsize="x-small")
            axes.set_xlim(-1, 1)
            axes.set_ylim(0, 1)
            axes.set_xticks([-1, 0, 1])
            axes.set_yticks([0, 1])
        column[-1].set_xlabel("t, in e + t·δ")
    return figure
