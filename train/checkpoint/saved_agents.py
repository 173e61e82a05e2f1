"""Agents saved without replay buffer and optimizer: enough to evaluate one, some MB.

    RUN/agents/000000012000/    as a checkpoint (`checkpointer`), of these leaves:
        .learner.agent          all trained parameters
        .learner.slow_value     the slow copy of the value network
        .learner.return_scale   the range of returns, as the updates track it

The names are those of a full checkpoint, so an agent is read from either. A copy of
`config.json` and `agents/` is a run for `train.evaluate` and `load_policy`.
"""

import itertools
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import PyTree

from core.agent import Agent
from core.behavior.returns import ReturnScale
from core.networks.heads import TwoHotHead
from train.checkpoint.checkpointer import Checkpointer, Restored
from train.errors import UserError
from train.program.state import RunState

FOLDER = "agents"


class SavedLearner(NamedTuple):
    """The part of a `Learner` that is written, under the same names."""

    agent: Agent
    slow_value: TwoHotHead | None = None
    return_scale: ReturnScale | None = None


class SavedRun(NamedTuple):
    """The part of a `RunState` that is written, under the same name."""

    learner: SavedLearner


class AgentSaver:
    """Writes the agents of one run: the newest, and those of `--keep-every`.

    The caller holds the run directory's lock; of several processes all save together.

    Args:
        warn: takes a line for the user; by default it goes to stderr.
    """

    def __init__(
        self, run_dir: pathlib.Path, *, warn: Callable[[str], None] | None = None
    ) -> None:
        self._folder = run_dir / FOLDER
        self._saver = Checkpointer(run_dir, 1, folder=FOLDER, warn=warn)

    def save(self, step: int, run: RunState, *, forever: bool) -> bool:
        """Save the agent of a step, and remove the one that was the newest before.

        Args:
            forever: keep this one when there is a newer one.

        Returns:
            Whether it was saved; see `Checkpointer.save`.
        """
        learner = run.learner
        tree = SavedRun(
            SavedLearner(learner.agent, learner.slow_value, learner.return_scale)
        )
        return self._saver.save(step, tree, {"forever": forever})

    def set_aside(self) -> str:
        """Rename the agents of an earlier run that left no checkpoint to go on from.

        Returns:
            A line for the user; empty where there were none.
        """
        if not self._saver.steps():
            return ""
        names = (f"{FOLDER}.{number}" for number in itertools.count(1))
        other = next(p for p in map(self._folder.with_name, names) if not p.exists())
        os.rename(self._folder, other)
        return f"{self._folder} was there, without a checkpoint: now {other.name}"


def saved_steps(run_dir: pathlib.Path) -> list[int]:
    """Environment steps of which an agent is there, alone or in a checkpoint."""
    stores = Checkpointer(run_dir, folder=FOLDER), Checkpointer(run_dir)
    return sorted({step for store in stores for step in store.steps()})


def restore_agent(
    run_dir: pathlib.Path, template: PyTree, at: int | None = None
) -> Restored | None:
    """The newest agent that can be read, or that of a step; None where there is none.

    Nothing else of a checkpoint is read. A damaged one is named in a warning, and the
    one before is tried.

    Args:
        template: a `SavedRun` of shapes.
        at: environment step.

    Raises:
        UserError: there is no agent of that step, or none can be read.
    """
    stores = [Checkpointer(run_dir, folder=FOLDER), Checkpointer(run_dir)]
    found = [(step, store) for store in stores for step in store.steps()]
    found.sort(
        key=lambda pair: -pair[0]
    )  # stable: the small file of a step comes first
    steps = sorted({step for step, _ in found})
    if at is not None:
        if not steps:
            return None
        if at not in steps:
            near = min(steps, key=lambda step: abs(step - at))
            raise UserError(
                f"--at {at}: {run_dir} holds no agent of that environment step; "
                f"allowed: {', '.join(map(str, steps))}; nearest valid: {near}"
            )
        found = [(step, store) for step, store in found if step == at]
    for step, store in found:
        restored = store.restore_step(step, template, partial=True)
        if restored is not None:
            return restored
    if not found:
        return None
    of = f"the agent of step {at}" if at is not None else f"the agents of steps {steps}"
    raise UserError(
        f"--run {run_dir}: {of} cannot be read; restore the files, or take another run "
        "or step (--at)"
    )
