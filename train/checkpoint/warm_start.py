"""Warm starts: some of an agent's modules take the parameters of a trained one.

GPLD, D.2, initializes encoder and decoder from a trained baseline and everything else
anew; nothing is frozen.
"""

from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
from jaxtyping import PyTree

from core.agent import Agent
from train.checkpoint.saved_agents import SavedLearner, SavedRun, restore_agent
from train.config import Config
from train.config.origin import PARTS
from train.errors import UserError
from train.program.state import RunState

_MODULES = {
    "encoder": lambda agent: agent.model.encoder,
    "decoder": lambda agent: agent.model.decoder,
    "dynamics": lambda agent: agent.model.rssm,
    "reward": lambda agent: agent.model.reward,
    "continue": lambda agent: agent.model.cont,
    "policy": lambda agent: agent.policy,
    "value": lambda agent: agent.value,
}


class WarmStart(NamedTuple):
    """Parameters read from another run."""

    agent: Agent
    """None in place of the modules that were not read."""
    line: str
    """For the user: what was read, from where, and what was not."""


def read_warm_start(config: Config, template: RunState) -> WarmStart | None:
    """The parameters that `--init-from` and `--init-parts` name; None without them.

    Args:
        template: this run's state, as shapes with their shardings.

    Raises:
        UserError: the run holds no agent, or none of the step asked for.
        CheckpointMismatch: a parameter is missing or has another shape.
    """
    origin = config.origin
    if not origin.init_from:
        return None
    left_out = [part for part in PARTS if part not in origin.parts]
    wanted: PyTree = template.learner.agent
    if left_out:
        wanted = eqx.tree_at(
            lambda agent: [_MODULES[part](agent) for part in left_out],
            wanted,
            replace=[None] * len(left_out),
        )
    run_dir = Path(origin.init_from).expanduser()
    found = restore_agent(run_dir, SavedRun(SavedLearner(wanted)), origin.at)
    if found is None:
        raise UserError(
            f"--init-from {origin.init_from}: holds no agent; allowed: the directory "
            "of a run that saved a checkpoint"
        )
    agent = found.tree.learner.agent
    counts = [f"{part} ({_size(_MODULES[part](agent)):,})" for part in origin.parts]
    rest = f"; initialized anew: {', '.join(left_out)}" if left_out else ""
    line = (
        f"warm start   {', '.join(counts)} parameters of {run_dir} at environment step "
        f"{found.step:,}{rest}"
    )
    return WarmStart(agent, line)


def apply_warm_start(run: RunState, warm: WarmStart) -> RunState:
    """The run with these parameters in its agent; the slow value follows the value."""
    learner = run.learner
    agent = eqx.combine(warm.agent, learner.agent)
    slow = learner.slow_value
    if warm.agent.value is not None:
        # A copy: the run's state is donated, and one buffer cannot be given twice.
        slow = jax.tree.map(lambda x: x + 0, agent.value)
    return run._replace(learner=learner._replace(agent=agent, slow_value=slow))


def _size(module: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(module))
