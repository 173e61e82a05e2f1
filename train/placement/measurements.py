"""What a run measures at intervals, by the programs that are compiled for it."""

from typing import Any

import jax
import numpy as np

from core.agent import Agent
from train.errors import counted
from train.placement.programs import Programs
from train.processes import coordination
from train.program.state import RunState
from train.rollout.openloop import encode
from train.run_dir.metrics.logger import Logger


def evaluate(
    programs: Programs, agent: Agent, step: int, logger: Logger
) -> dict[str, Any]:
    """Returns of separate episodes, by the policy's sample or mode (`eval_policy`)."""
    # The key depends on the step alone, so that a resumed run repeats it.
    played = programs.evaluate(agent, programs.keys(1 + step))
    played = jax.tree.map(coordination.fetch, played)
    cut_off = int(np.sum(played.cut_off))
    if cut_off:
        episodes = counted(played.cut_off.size, "episode")
        logger.say(
            f"evaluation at step {step:,}: {cut_off} of {episodes} "
            f"cut off after {programs.config.eval_max_decisions:,} decisions "
            "(--eval-max-decisions); their returns are those up to then"
        )
    returns = played.returns[..., 0, :]  # of the condition that was asked for
    others = {
        f"eval/return_mean_{name.replace(' ', '_')}": played.returns[
            ..., 1 + i, :
        ].mean(-1)
        for i, name in enumerate(programs.conditions.labels[1:])
    }
    return others | {
        "eval/return_mean": returns.mean(-1),
        "eval/return_std": returns.std(-1),
        "eval/return_min": returns.min(-1),
        "eval/cut_off": played.cut_off[..., 0, :].sum(-1),
    }


def show_open_loop(
    programs: Programs, run: RunState, step: int, logger: Logger
) -> dict[str, Any]:
    """Where the agent sees images: a film of what it expected to see, and its error."""
    if programs.open_loop is None:
        return {}
    films, error = programs.open_loop(
        run.learner.agent, run.replay, programs.keys(1 + step)
    )
    films = coordination.fetch(films)
    each = films if programs.config.agents > 1 else films[None]
    logger.write_gifs(step, "openloop", [encode(film) for film in each])
    return {"eval/openloop_error": coordination.fetch(error)}


def measure_trust(programs: Programs, run: RunState, step: int) -> dict[str, Any]:
    """How smooth the agent's maps are at replayed states, where that is asked for."""
    if programs.trust is None:
        return {}
    found = programs.trust(run.learner.agent, run.replay, programs.keys(1 + step))
    return {f"trust/{name}": coordination.fetch(x) for name, x in found.items()}
