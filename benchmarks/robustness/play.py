"""Playing all agents under all conditions of one kind, in one compiled program."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from benchmarks.curves.arms import group_runs
from benchmarks.sensitivity.measure import make_measure
from core.agent import Agent
from envs import Env
from train.checkpoint.saved_agents import saved_steps
from train.config import Config
from train.errors import UserError
from train.preflight import setup
from train.rollout.conditions import Conditions
from train.rollout.player import make_player
from train.rollout.scores import load_agents
from train.run_dir.record import read_run


class Trained(NamedTuple):
    """One agent, of one seed and checkpoint of a run."""

    arm: str
    run: str
    seed: int
    step: int
    last: bool
    """Of the run's last checkpoint."""


class Agents(NamedTuple):
    """Agents of one task and size; `stacked` has a leading axis of them."""

    env: Env
    config: Config
    """Of the first run."""
    who: tuple[Trained, ...]
    stacked: Agent

    def final(self) -> "Agents":
        """Those of each run's last checkpoint."""
        at = np.array([i for i, one in enumerate(self.who) if one.last])
        stacked = jax.tree.map(lambda x: x[at], self.stacked)
        return self._replace(who=tuple(self.who[i] for i in at), stacked=stacked)


def read_agents(run_dirs: Sequence[Path], *, last_only: bool) -> Agents:
    """All saved agents of some runs.

    Raises:
        UserError: a run has no agent, or the runs are of several tasks or sizes.
    """
    shape = lambda c: (c.env, c.obs, c.action_repeat, c.size)
    first = read_run(run_dirs[0])
    env = setup.make_env(first)
    who: list[Trained] = []
    agents: list[Agent] = []
    for arm, members in group_runs(run_dirs):
        for run_dir in members:
            config = read_run(run_dir)
            if shape(config) != shape(first):
                raise UserError(
                    f"--run {run_dir}: is of {' '.join(map(str, shape(config)))}, and "
                    f"{run_dirs[0]} of {' '.join(map(str, shape(first)))}; allowed: "
                    "runs of one task, kind of observation, action repeat and size"
                )
            steps = saved_steps(run_dir)
            if not steps:
                raise UserError(
                    f"--run {run_dir}: has no saved agent; allowed: a run with one"
                )
            for step in steps[-1:] if last_only else steps:
                _, loaded = load_agents(run_dir, config, env, step)
                for index, agent in enumerate(loaded):
                    seed, last = config.seed + index, step == steps[-1]
                    who.append(Trained(arm, run_dir.name, seed, step, last))
                    agents.append(agent)
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *agents)
    return Agents(env, first, tuple(who), stacked)


def play(
    agents: Agents, conditions: Conditions, *, episodes: int, seed: int
) -> Float[np.ndarray, "agents conditions episodes"]:
    """Returns of every agent under every condition: one program, agent by agent.

    Starts and random numbers are those of the same episodes under every condition, for
    every agent, and those of `train.evaluate` with this seed and (up to 64) episodes.
    """
    one = make_player(
        agents.env,
        episodes,
        conditions,
        acting=agents.config.eval_policy,
        max_decisions=agents.config.eval_max_decisions,
    )
    every = jax.jit(
        lambda stacked, key: jax.lax.map(lambda a: one(a, key).returns, stacked)
    )
    (key,) = jax.random.split(jax.random.key(seed), 1)
    return np.asarray(every(agents.stacked, key))


def norms(
    agents: Agents, *, copies: int, decisions: int, seed: int
) -> dict[str, Float[np.ndarray, " agents"]]:
    """Exact ‖J‖_F² of every agent's maps, means over states that it visits itself."""
    measure = make_measure(agents.env, copies=copies, decisions=decisions)
    every = jax.jit(
        lambda stacked, key: jax.lax.map(lambda a: measure(a, key).jacobian, stacked)
    )
    found: Any = every(agents.stacked, jax.random.key(seed))
    return {name: np.asarray(x) for name, x in found.items()}
