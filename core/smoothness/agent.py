"""Norms of the maps of an agent, at the states that it visits.

z is a random variable. Where it is the output of a map, the map gives its
probabilities (with Gaussian latents its mean); where a rollout needs it as an input,
they take its place (mean field). So every map here is a differentiable function, and
its Jacobian is exact: a straight-through gradient is that of another function.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from core.agent import Agent
from core.smoothness.heads import Inputs, jacobian_norms
from core.smoothness.jacobian import (
    FrobeniusNorm,
    Growth,
    Products,
    SpectralNorm,
    growth,
    hutchinson,
    power_iteration,
)
from core.states import State
from core.theory.bounds import curvature

MAPS = (
    "posterior",
    "prior",
    "recurrent",
    "dynamics_state",
    "dynamics_action",
    "reward",
    "value",
    "policy",
    "closed_loop",
    "velocity",
    "rollout",
)
"""The maps that `agent_maps` gives; their equations are there."""


class Map(NamedTuple):
    """A function and the point at which its Jacobian is taken."""

    function: Callable[[Float[Array, " inputs"]], Float[Array, "*outputs"]]
    point: Float[Array, " inputs"]


@dataclasses.dataclass(frozen=True)
class NormOptions:
    """What is measured, and how accurately.

    Attributes:
        maps: names from `MAPS`.
        horizon: steps of the closed loop's rollouts, at least 3.
        probes: random vectors for ‖J‖_F and for the growth, at least 2.
        tolerance, max_iterations: see `spectral_norm`.
    """

    maps: tuple[str, ...] = MAPS
    horizon: int = 15
    probes: int = 8
    tolerance: float = 1e-3
    max_iterations: int = 100

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown map or a horizon below 3."""
        if unknown := [name for name in self.maps if name not in MAPS]:
            raise ValueError(f"maps={self.maps}: {unknown[0]!r} is not one of {MAPS}")
        if self.horizon < 3:
            raise ValueError(
                f"horizon={self.horizon}: must be at least 3, as curvature needs the "
                "states after three steps"
            )


class StateNorms(NamedTuple):
    """Norms at n states: every array has a first axis of n."""

    spectral: dict[str, SpectralNorm]
    """‖J‖₂ of each map."""
    frobenius: dict[str, FrobeniusNorm]
    """‖J‖_F² of each map."""
    rows: dict[str, Float[Array, " n"]]
    """Exact ‖J‖_F² of a variable of `posterior` and `prior` (`jacobian_norms`)."""
    growth: Growth
    """Of the closed loop; `states` are the features of its rollouts."""


class Quantiles(NamedTuple):
    """Over states."""

    median: Float[Array, "*shape"]
    upper: Float[Array, "*shape"]
    """The 90 % quantile."""
    largest: Float[Array, "*shape"]

    @classmethod
    def of(cls, values: Float[Array, "n *shape"]) -> "Quantiles":
        """Those over the first axis."""
        median, upper = jnp.quantile(values, jnp.array([0.5, 0.9]), axis=0)
        return cls(median, upper, jnp.max(values, axis=0))


class MapNorms(NamedTuple):
    """Norms of the Jacobian of one map, over states."""

    spectral: Quantiles
    """‖J‖₂: lower bounds."""
    converged: Float[Array, ""]
    """The share of states whose `spectral_norm` converged."""
    iterations: Float[Array, ""]
    """The mean number of iterations."""
    frobenius: FrobeniusNorm
    """The mean of ‖J‖_F², and its standard error at these states."""


class Curvature(NamedTuple):
    """Temporal straightness of rollouts ("On Training in Imagination", Definition 1).

    With v_t = x_{t+1} − x_t. NaN where no step moves.
    """

    mean: Float[Array, ""]
    """Of 1 − cos(v_t, v_{t+1}): 0 on a straight line, 2 where it turns back."""
    largest: Float[Array, ""]
    ratio: Float[Array, ""]
    """Mean of ρ_t = ‖v_{t+1} − v_t‖/‖v_t‖; curvature_t ≤ 1 − √(1 − ρ_t²) if ρ_t < 1."""
    moving: Float[Array, ""]
    """Share of the steps that were used: both velocities are above rounding errors."""


class AgentNorms(NamedTuple):
    """`StateNorms` summarized over states."""

    maps: dict[str, MapNorms]
    rows: dict[str, Quantiles]
    average_growth: Quantiles
    """Of ‖Φ_t‖_F/√n, each `[horizon]`, for t = 1 … horizon."""
    largest_growth: Quantiles
    """Of a lower bound of ‖Φ_t‖₂, each `[horizon]`. That of the map `rollout` is closer
    to ‖Φ_t‖₂, for t = horizon."""
    curvature: Curvature
    """Of the features x_1 … x_horizon along the closed loop's rollouts."""


def closed_loop(
    agent: Agent, features: Float[Array, " features"]
) -> Float[Array, " features"]:
    """One step of the mean-field model under the policy's mean action.

        a = E π(·|h, z),    h' = f(h, z, a),    z' = E p(ẑ'|h')

    Args:
        features: h and the flat z; with categoricals, each a distribution over classes.
    """
    return _next(agent, features, agent.policy(features).mode())


def agent_maps(
    agent: Agent, latent: State, embed: Float[Array, " embed"], *, horizon: int
) -> dict[str, Map]:
    """The maps named in `MAPS` at one state, with x = (h, z) and a the mean action.

        posterior        e ↦ E q(z|h, e): probabilities, or means
        prior            h ↦ E p(ẑ|h)
        recurrent        h ↦ f(h, z, a)
        dynamics_state   x ↦ x' with the same a
        dynamics_action  a ↦ x'
        reward, value    x ↦ mean prediction (in units of reward)
        policy           x ↦ mean action
        closed_loop      x ↦ x' (`closed_loop`)
        velocity         x ↦ x' − x of the closed loop (Proposition 1)
        rollout          x ↦ the closed loop's state `horizon` steps later: J is Φ_t

    Args:
        latent: h, and z as drawn or its expectation; no batch axes.
        embed: the encoder's output e in the same step.
        horizon: in steps of the model.
    """
    model, rssm = agent.model, agent.model.rssm
    h, x = latent.deter, latent.features
    action = agent.policy(x).mode()
    mean = lambda logits: rssm.dist(logits).mean()
    step = lambda x: closed_loop(agent, x)

    def rollout(x: Array) -> Array:
        return jax.lax.scan(lambda x, _: (step(x), None), x, length=horizon)[0]

    return {
        "posterior": Map(lambda e: mean(rssm.posterior_logits(h, e)), embed),
        "prior": Map(lambda h: mean(rssm.prior_logits(h)), h),
        "recurrent": Map(lambda h: rssm.recurrent(latent._replace(deter=h), action), h),
        "dynamics_state": Map(lambda x: _next(agent, x, action), x),
        "dynamics_action": Map(lambda a: _next(agent, x, a), action),
        "reward": Map(lambda x: model.reward(x).mean(), x),
        "value": Map(lambda x: agent.value(x).mean(), x),
        "policy": Map(lambda x: agent.policy(x).mode(), x),
        "closed_loop": Map(step, x),
        "velocity": Map(lambda x: step(x) - x, x),
        "rollout": Map(rollout, x),
    }


def state_norms(
    agent: Agent,
    latents: State,
    embeds: Float[Array, "n embed"],
    *,
    key: PRNGKeyArray,
    options: NormOptions = NormOptions(),
) -> StateNorms:
    """Norms at each of n states. It can be compiled with `eqx.filter_jit`.

    Args:
        latents: h and z after the observation, one batch axis of n.
        embeds: the encoder's output e for the observations.
    """

    def at(latent: State, embed: Array, key: Array) -> tuple:
        maps = agent_maps(agent, latent, embed, horizon=options.horizon)
        spectral, frobenius = {}, {}
        # All maps have the same random numbers, so that each shape is drawn once.
        keys = jax.random.split(key, 3)
        for name in options.maps:
            jacobian = Products.of(*maps[name])
            spectral[name] = power_iteration(
                jacobian,
                key=keys[0],
                tolerance=options.tolerance,
                max_iterations=options.max_iterations,
            )
            frobenius[name] = hutchinson(jacobian, key=keys[1], probes=options.probes)
        grown = growth(
            lambda x, _: closed_loop(agent, x),
            latent.features,
            jnp.arange(options.horizon),
            key=keys[2],
            probes=options.probes,
        )
        return spectral, frobenius, grown

    keys = jax.random.split(key, embeds.shape[0])
    spectral, frobenius, grown = jax.vmap(at)(latents, embeds, keys)
    rows = jacobian_norms(agent.model.rssm, Inputs(latents.deter, embeds))
    return StateNorms(spectral, frobenius, rows, grown)


def agent_norms(
    agent: Agent,
    latents: State,
    embeds: Float[Array, "n embed"],
    *,
    key: PRNGKeyArray,
    options: NormOptions = NormOptions(),
) -> AgentNorms:
    """`state_norms`, summarized over the n states. It can be compiled likewise."""
    norms = state_norms(agent, latents, embeds, key=key, options=options)
    return summarize(norms)


def summarize(norms: StateNorms) -> AgentNorms:
    """Quantiles over the states, and the curvature of all rollouts."""
    maps = {
        name: MapNorms(
            Quantiles.of(spectral.norm),
            jnp.mean(spectral.converged.astype(float)),
            jnp.mean(spectral.iterations.astype(float)),
            _mean(norms.frobenius[name]),
        )
        for name, spectral in norms.spectral.items()
    }
    return AgentNorms(
        maps,
        {name: Quantiles.of(values) for name, values in norms.rows.items()},
        Quantiles.of(norms.growth.average),
        Quantiles.of(norms.growth.largest),
        # Without x_0: from it to x_1, z also changes from a sample to probabilities.
        mean_curvature(norms.growth.states.swapaxes(0, 1)),
    )


def mean_curvature(trajectory: Float[Array, "time *batch size"]) -> Curvature:
    """`core.theory.bounds.curvature` over all steps that move.

    A step counts as moving if ‖v‖ > √ε·‖x‖, ε the type's precision: the direction of
    v is known to √ε then. Rollouts that reach a fixed point have no direction.

    Raises:
        ValueError: there are fewer than three states.
    """
    loss, ratio = curvature(trajectory)
    length = jnp.linalg.norm(jnp.diff(trajectory, axis=0), axis=-1)
    least = jnp.finfo(trajectory.dtype).eps ** 0.5
    moves = length > least * jnp.linalg.norm(trajectory[1:], axis=-1)
    used = moves[1:] & moves[:-1]
    # The largest of no steps is NaN, like their mean.
    largest = jnp.max(loss, where=used, initial=-jnp.inf)
    return Curvature(
        jnp.mean(loss, where=used),
        jnp.where(jnp.any(used), largest, jnp.nan),
        jnp.mean(ratio, where=used),
        jnp.mean(used.astype(trajectory.dtype)),
    )


def _next(agent: Agent, features: Array, action: Array) -> Array:
    rssm = agent.model.rssm
    h = rssm.recurrent(rssm.state(features), action)
    return State(h, rssm.dist(rssm.prior_logits(h)).mean()).features


def _mean(found: FrobeniusNorm) -> FrobeniusNorm:
    """The mean over states, whose probes are independent."""
    n = found.square.size
    error = jnp.sqrt(jnp.sum(jnp.square(found.standard_error))) / n
    return FrobeniusNorm(jnp.mean(found.square), error)
