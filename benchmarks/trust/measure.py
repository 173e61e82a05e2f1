"""All measurements of one agent, as arrays over start states."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from benchmarks.trust.branches import Branches, make_branch
from benchmarks.trust.episodes import (
    Episodes,
    follow,
    goes_on,
    make_record,
    realized_returns,
)
from benchmarks.trust.latent_errors.curvature import curvature
from benchmarks.trust.latent_errors.initial_error import initial_error
from benchmarks.trust.latent_errors.latent_noise import latent_noise
from benchmarks.trust.windows import Windows, make_windows
from core.agent import Agent
from core.smoothness import (
    AgentNorms,
    Inputs,
    NormOptions,
    StateNorms,
    jacobian_norms,
    state_norms,
    summarize,
)
from envs import Env
from envs.mjx.env import MjxEnv
from envs.render.pixels import PixelEnv
from train.errors import UserError

NORMS = 64
"""States at which the norms of all maps are taken: the first of those branched."""


class Plan(NamedTuple):
    """How much is measured.

    Attributes:
        copies, decisions: environments, and decisions of each.
        starts: states to branch from, at most.
        horizon: imagined steps of a branch.
        steps: H of the attribution: the imagination length of training.
        discount: γ.
        seed: of everything drawn.
    """

    copies: int
    decisions: int
    starts: int
    horizon: int
    steps: int
    discount: float
    seed: int


class Starts(NamedTuple):
    """Which entries of the episodes are branched from."""

    time: Int[np.ndarray, " starts"]
    copy: Int[np.ndarray, " starts"]


class Measured(NamedTuple):
    """Of one agent, entry by entry of `starts`.

    Attributes:
        branches: see there.
        realized: return from each start to the end of its episode.
        windows: of the policy's own return over `Plan.steps`; None where another agent
            acted.
        features: what is known of each start, by name; NaN where it was not measured.
        norms: of the agent's maps; None where there is no agent.
        latent_noise, initial_error, curvature: see there; None where another agent
            acted.
        every: the critic's value and the realized return in all recorded states.
    """

    starts: Starts
    branches: Branches
    realized: Float[np.ndarray, " starts"]
    windows: Windows | None
    features: dict[str, Float[np.ndarray, " starts"]]
    every: tuple[np.ndarray, np.ndarray]
    norms: AgentNorms | None = None
    latent_noise: dict[str, Any] | None = None
    initial_error: dict[str, Any] | None = None
    curvature: dict[str, Any] | None = None


class Measure:
    """Compiles once for all agents of one task and size.

    Args:
        env: of which the agents were trained.
        plan: how much is measured.
    """

    def __init__(self, env: Env, plan: Plan):
        self.env, self.plan = env, plan
        record = make_record(env, copies=plan.copies, decisions=plan.decisions)
        self._record = jax.jit(record)
        self._follow = jax.jit(follow)
        windows = make_windows(steps=plan.steps, discount=plan.discount)
        self._windows = jax.jit(windows)
        self._rows = jax.jit(_rows)
        options = NormOptions(horizon=max(3, plan.steps))
        norms = lambda *args, key: _norms(*args, key=key, options=options)
        self._norms = jax.jit(norms)
        self._branch: dict[int, Callable[..., Branches]] = {}

    def record(self, agent: Agent) -> Episodes:
        """Episodes under the agent's policy; the starts depend on the seed alone."""
        return self._record(agent, jax.random.key(self.plan.seed))

    def follow(self, agent: Agent, episodes: Episodes) -> Episodes:
        """Episodes of another agent, in this agent's latent states."""
        return self._follow(agent, episodes, jax.random.key(self.plan.seed + 1))

    def choose(self, episodes: Episodes) -> Starts:
        """States followed by enough sound steps of the same episode.

        Raises:
            UserError: there is none.
        """
        plan = self.plan
        time, copy = np.nonzero(goes_on(episodes, plan.horizon))
        if not len(time):
            raise UserError(
                f"--horizon {plan.horizon}: no episode goes on for so long within "
                f"{plan.decisions} decisions; allowed: a smaller one, or more "
                "--decisions"
            )
        rng = np.random.default_rng(plan.seed)
        chosen = rng.permutation(len(time))[: plan.starts]
        return Starts(time[chosen], copy[chosen])

    def __call__(
        self, agent: Agent, episodes: Episodes, starts: Starts, *, own: bool = True
    ) -> Measured:
        """Measure an agent at states of episodes in its latent states.

        Args:
            own: the agent acted in these episodes.
        """
        plan = self.plan
        branch_key, window_key, norm_key = jax.random.split(
            jax.random.key(plan.seed + 2), 3
        )
        chosen = episodes.at(starts.time, starts.copy)
        variance = self._variance(episodes)
        branches = self._branched(agent, chosen, variance, branch_key, len(starts.time))
        realized = realized_returns(episodes, plan.discount)
        windows = noise = apart = bent = None
        some = jax.tree.map(lambda x: x[:NORMS], chosen)
        if own:
            value = jnp.asarray(
                realized[starts.time + plan.steps, starts.copy], jnp.float32
            )
            found = self._windows(agent, episodes, *starts, value, window_key)
            windows = jax.device_get(found)
            features = chosen.latent.features[:NORMS]
            noise = latent_noise(agent, features, steps=plan.steps, key=norm_key)
            apart = initial_error(agent, features, steps=plan.steps, key=norm_key)
            bent = curvature(agent, some, discount=plan.discount, key=norm_key)
        features = self._features(agent, chosen)
        states, norms = jax.device_get(self._norms(agent, some, key=norm_key))
        for name, values in {
            "‖J‖₂ of the closed loop": states.spectral["closed_loop"].norm,
            f"‖Φ‖₂ of {max(3, plan.steps)} steps": states.spectral["rollout"].norm,
        }.items():
            features[name] = np.full(len(starts.time), np.nan)
            features[name][:NORMS] = values
        return Measured(
            starts,
            branches,
            realized[starts],
            windows,
            features,
            (np.asarray(episodes.heads.value, np.float64), realized),
            norms,
            noise,
            apart,
            bent,
        )

    def _branched(
        self,
        agent: Agent,
        chosen: Episodes,
        variance: Array,
        key: Array,
        starts: int,
    ) -> Branches:
        if starts not in self._branch:
            made = make_branch(
                self.env,
                starts=starts,
                horizon=self.plan.horizon,
                discount=self.plan.discount,
            )
            self._branch[starts] = jax.jit(made)
        return jax.device_get(self._branch[starts](agent, chosen, variance, key))

    def _variance(self, episodes: Episodes) -> Array:
        """Of observations; entries that never change are measured in their own unit."""
        obs = np.asarray(episodes.obs, np.float64)
        if self.env.spec.is_image:
            pixels = obs / 255
            variance = np.mean(np.var(pixels, axis=(0, 1)))
        else:
            variance = np.var(obs, axis=(0, 1))
        return jnp.asarray(np.where(variance > 1e-12, variance, 1.0), jnp.float32)

    def _features(self, agent: Agent, chosen: Episodes) -> dict[str, np.ndarray]:
        found = {
            f"‖J‖² {part}": np.asarray(norm, np.float64)
            for part, norm in self._rows(agent, chosen).items()
        }
        found["value"] = np.asarray(chosen.heads.value, np.float64)
        obs, place = np.asarray(chosen.obs, np.float64), 0
        for name, size in self.env.spec.obs_entries:
            part = obs[:, place : place + size]
            place += size
            size_of = part[:, 0] if size == 1 else np.linalg.norm(part, axis=-1)
            found[name if size == 1 else f"‖{name}‖"] = size_of
        inner = self.env.inner if isinstance(self.env, PixelEnv) else self.env
        if isinstance(inner, MjxEnv):
            found |= _physical(inner, chosen.state)
        return found


def _rows(agent: Agent, chosen: Episodes) -> dict[str, Array]:
    embed = agent.model.encoder(chosen.obs)
    return jacobian_norms(agent.model.rssm, Inputs(chosen.latent.deter, embed))


def _norms(
    agent: Agent, chosen: Episodes, *, key: Array, options: NormOptions
) -> tuple[StateNorms, AgentNorms]:
    embed = agent.model.encoder(chosen.obs)
    found = state_norms(agent, chosen.latent, embed, key=key, options=options)
    return found, summarize(found)


def _physical(env: MjxEnv, state: Any) -> dict[str, np.ndarray]:
    """Speed, number of contacts and height of each state, by MuJoCo on the host."""
    from envs.mjx._mjx import mujoco

    data = mujoco.MjData(env.model)
    contacts, heights = [], []
    qpos, qvel = (np.asarray(x, np.float64) for x in (state.qpos, state.qvel))
    for position, velocity in zip(qpos, qvel, strict=True):
        data.qpos, data.qvel = position, velocity
        mujoco.mj_forward(env.model, data)
        contacts.append(int(np.sum(data.contact.dist < 0)) if data.ncon else 0)
        heights.append(data.subtree_com[0, 2])
    return {
        "speed ‖q̇‖": np.linalg.norm(qvel, axis=-1),
        "contacts": np.asarray(contacts, float),
        "height of the centre of mass": np.asarray(heights),
    }
