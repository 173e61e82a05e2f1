"""Playing all agents under all conditions, in one compiled program."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from benchmarks.curves.arms import Arm, arm_of, group_runs
from benchmarks.robustness.kinds import Kind, completed, model_of
from benchmarks.sensitivity.measure import make_visit
from core.agent import Agent
from core.smoothness import jacobian_norms, recurrent_norms
from envs import Env
from train.checkpoint.saved_agents import saved_steps
from train.config import Config
from train.errors import UserError
from train.preflight import setup
from train.rollout.conditions import Conditions
from train.rollout.player import Acting, make_player
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
    arms: dict[str, Arm]
    """By label."""

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
    shape = lambda c: (c.env, c.obs, c.action_repeat, c.size, c.latent.family)
    first = read_run(run_dirs[0])
    env = setup.make_env(first)
    who: list[Trained] = []
    agents: list[Agent] = []
    arms: dict[str, Arm] = {}
    for arm, members in group_runs(run_dirs):
        arms[arm] = arm_of(members)
        for run_dir in members:
            config = read_run(run_dir)
            if shape(config) != shape(first):
                raise UserError(
                    f"--run {run_dir}: is of {' '.join(map(str, shape(config)))}, and "
                    f"{run_dirs[0]} of {' '.join(map(str, shape(first)))}; allowed: "
                    "runs of one task, kind of observation, action repeat, size and "
                    "family of latents"
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
    return Agents(env, first, tuple(who), stacked, arms)


class Trials(NamedTuple):
    """How agents are tried out under every condition."""

    episodes: int
    seed: int
    decisions: int | None = None
    """After so many an episode is stopped; None: those of the runs' evaluations."""


class Player:
    """Plays agents under conditions: one program for all of them.

    It is called for one agent and some conditions (a block) after another. The returns
    do not depend on the size of a block, but for rounding.
    """

    def __init__(self, agents: Agents, trials: Trials, *, block: int) -> None:
        """Of the agents the environment and the settings are read.

        Args:
            block: how many conditions are played at once; see `block_size`.
        """
        self._env = agents.env
        self._acting: Acting = agents.config.eval_policy
        self._trials = trials
        self._limit = trials.decisions or agents.config.eval_max_decisions
        self._block = block
        self._program = jax.jit(self._returns)

    def __call__(
        self, agents: Agents, conditions: Conditions, *, said: str = ""
    ) -> Float[np.ndarray, "agents conditions episodes"]:
        """Returns of every agent under every condition.

        Starts and random numbers are those of the same episodes under every condition,
        for every agent, and those of `train.evaluate` with this seed and (up to 64)
        episodes.

        Args:
            said: what to print of the progress, on a terminal.
        """
        count = len(conditions.labels)
        changes = completed(self._env, conditions)[2:]
        (key,) = jax.random.split(jax.random.key(self._trials.seed), 1)
        found = []
        for index in track(len(agents.who), said):
            agent = jax.tree.map(lambda x, i=index: x[i], agents.stacked)
            rows = []
            for start in range(0, count, self._block):
                # The last block is filled up with its last condition.
                at = np.minimum(np.arange(start, start + self._block), count - 1)
                block = jax.tree.map(lambda x, at=at: x[at], changes)
                rows.append(np.asarray(self._program(agent, block, key)))
            found.append(np.concatenate(rows)[:count])
        return np.stack(found)

    def _returns(self, agent: Agent, changes: Any, key: Any) -> Any:
        names = ("",) * self._block
        player = make_player(
            self._env,
            self._trials.episodes,
            Conditions(names, names, *changes),
            acting=self._acting,
            max_decisions=self._limit,
        )
        return player(agent, key).returns


def track(count: int, said: str) -> Iterator[int]:
    """0 to count - 1, with a line for each of them."""
    began = time.monotonic()
    for index in range(count):
        yield index
        if said:
            minutes = (time.monotonic() - began) / 60
            print(f"{said}: {index + 1} of {count}, {minutes:.1f} minutes", flush=True)


def block_size(env: Env, episodes: int, *, counts: Sequence[int]) -> int:
    """How many conditions to play at once: at most the largest of `counts`.

    An accelerator takes all. On a CPU a batch that does not fit into the cache is slow,
    and in the simulator all wait for the slowest contact: 16 Walkers make 2.1 times as
    many steps a second of processor time as 64. 360 cartpoles make 2.3 times as many as
    16.
    """
    if jax.default_backend() != "cpu":
        return max(counts)
    model = model_of(env)
    speeds = 1 if model is None else model.model.nv
    copies = min(max(1024 // speeds**2, 16), 256)
    return min(max(1, copies // episodes), max(counts))


def play_kinds(
    player: Player, agents: Agents, kinds: Sequence[Kind]
) -> list[Float[np.ndarray, "agents conditions episodes"]]:
    """Returns under the conditions of each kind; the unchanged one is played once."""
    every = [completed(agents.env, kind.conditions) for kind in kinds]
    every = [every[0], *(one.after(1) for one in every[1:])]
    together = Conditions(
        sum((one.labels for one in every), ()),
        sum((one.perturbs for one in every), ()),
        *jax.tree.map(lambda *xs: jnp.concatenate(xs), *(one[2:] for one in every)),
    )
    returns = player(agents, together, said="agents played in the grids")
    ends = np.cumsum([len(one.labels) for one in every])
    rest = np.split(returns[:, 1:], ends[:-1] - 1, axis=1)
    return [np.concatenate([returns[:, :1], rows], axis=1) for rows in rest]


STATES = 64
"""At so many of the visited states the norm of the recurrent map is taken."""


def norms(
    agents: Agents, *, copies: int, decisions: int, seed: int
) -> dict[str, Float[np.ndarray, " agents"]]:
    """Exact ‖J‖_F² of every agent's maps, means over states that it visits itself."""
    visit = make_visit(agents.env, copies=copies, decisions=decisions)

    def measure(agent: Agent, key: Any) -> dict[str, Any]:
        seen, rssm = visit(agent, jax.random.split(key)[0]), agent.model.rssm
        some = jax.tree.map(lambda x: x[:: -(-len(seen.embed) // STATES)], seen)
        found = jacobian_norms(rssm, seen.inputs)
        found["recurrent map"] = recurrent_norms(rssm, some.latent, some.action)
        return jax.tree.map(jnp.mean, found)

    every = jax.jit(
        lambda stacked, key: jax.lax.map(lambda a: measure(a, key), stacked)
    )
    found = every(agents.stacked, jax.random.key(seed))
    return {name: np.asarray(x) for name, x in found.items()}
