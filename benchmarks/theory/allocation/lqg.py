"""The linear-quadratic group of Section 4.2: fitted models, exact returns.

For each system (d = 3, m = 2, γ = 0.8, γc = 0.226, as in the paper), models are fitted
by least squares to n noisy samples from the box [-1, 1]^5. The *realized* optimal split
minimizes the sum of the two parts of the gap, each a power law in n fitted on one half
of the models. The *prediction*, equation (4), takes the power laws of the errors ε and
the sensitivities from the other half, so that the two have independent noise. There are
two predictions: with measured sensitivities, and with Lemma 1's global constants on the
smallest ball that contains the rollouts. The paper does not specify its domain; the
multiplier is proportional to its radius.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from core.theory.allocation import Costs, optimal_allocation, ratio_formula
from core.theory.bounds import LipschitzConstants, dynamics_multiplier
from core.theory.powerlaw import Fit, fit
from envs.synthetic import lqg

DISCOUNT = 0.8
CONTRACTION = 0.226 / DISCOUNT
POLICY_NORM = 1.0
DYNAMICS_NORM = CONTRACTION / (1 + POLICY_NORM)
ANCHORS = (50, 100, 200, 400, 800, 1600, 3200, 6400)
QUICK_ANCHORS = ANCHORS[::2]  # each anchor compiles a program
MODELS = 64
"""Fitted models per anchor; half for the gap, half for errors and sensitivities."""

NOISE = 0.1
"""Standard deviation of the noise on each observed next state and reward."""

STEP = 0.01
COSTS = Costs(dynamics=1.0, reward=10.0)
BUDGET = 2e4
_STEPS = 60  # truncation of rollouts: 0.2825^60 is 1e-33
_STATE, _ACTION = 3, 2


class LQGResult(NamedTuple):
    """One system. Ratios are n_d / n_r."""

    realized: float
    predicted: float
    predicted_global: float
    dynamics_sensitivity: float
    reward_sensitivity: float
    global_multiplier: float
    multiplier_ratio: float
    """K/K′: Lemma 1's coefficient / the same with the sensitivity in place of L_f."""
    dynamics_fit: Fit
    reward_fit: Fit
    radius: float


class Measured(NamedTuple):
    """Errors, gaps and slopes of models fitted to n samples, one entry per model."""

    dynamics_error: Any
    reward_error: Any
    dynamics_gap: Any
    reward_gap: Any
    dynamics_slope: Any
    """|J(f + h δ, r) - J(f, r)| / h; divided by the error it is the sensitivity."""
    reward_slope: Any


def lqg_results(
    *, seeds: int, anchors: Sequence[int] = ANCHORS, progress: Callable[[float], None]
) -> list[LQGResult]:
    """Measure `seeds` systems, in float64, with models fitted to `anchors` samples."""
    keys = jax.random.split(jax.random.key(0), seeds)
    measured = []
    with jax.enable_x64(True):
        for done, n in enumerate(anchors):
            program = jax.jit(
                lambda keys, n=n: jax.lax.map(lambda key: _models(key, n), keys)
            )
            measured.append(jax.tree.map(np.asarray, program(keys)))
            progress((done + 1) / len(anchors))
        facts = [np.asarray(x) for x in jax.jit(jax.vmap(_facts))(keys)]
    # seeds, anchors, models
    stacked = Measured(*(np.stack(x, axis=1) for x in zip(*measured, strict=True)))
    return [
        _result(
            Measured(*(x[i] for x in stacked)),
            *(float(x[i]) for x in facts),
            anchors=np.array(anchors, float),
        )
        for i in range(seeds)
    ]


def _result(
    measured: Measured, reward_norm: float, radius: float, *, anchors: np.ndarray
) -> LQGResult:
    half = MODELS // 2
    gaps = [
        fit(anchors, gap[:, :half]).law
        for gap in (measured.dynamics_gap, measured.reward_gap)
    ]
    best = optimal_allocation(
        *gaps, unit="rmse", multiplier=1.0, costs=COSTS, budget=BUDGET
    )
    others = Measured(*(x[:, half:] for x in measured))
    dynamics = fit(anchors, others.dynamics_error)
    reward = fit(anchors, others.reward_error)
    sensitivities = []
    for slope, error, n in (
        (others.dynamics_slope, others.dynamics_error, best.dynamics_samples),
        (others.reward_slope, others.reward_error, best.reward_samples),
    ):
        nearest = int(np.argmin(np.abs(np.log(anchors / n))))
        sensitivities.append(float(np.mean(slope[nearest]) / np.mean(error[nearest])))
    constants = LipschitzConstants.joint(
        dynamics=DYNAMICS_NORM, reward=reward_norm * radius, policy=POLICY_NORM
    )
    multiplier = dynamics_multiplier(constants, discount=DISCOUNT)
    errors = dynamics.law(best.dynamics_samples), reward.law(best.reward_samples)
    exponents = dynamics.law.exponent, reward.law.exponent
    predicted, predicted_global = (
        ratio_formula(exponents=exponents, multiplier=m, costs=COSTS, errors=errors)
        for m in (sensitivities[0] / sensitivities[1], multiplier)
    )
    shrunk = constants._replace(
        dynamics_state=sensitivities[0], dynamics_action=sensitivities[0]
    )
    return LQGResult(
        realized=best.ratio,
        predicted=predicted,
        predicted_global=predicted_global,
        dynamics_sensitivity=sensitivities[0],
        reward_sensitivity=sensitivities[1],
        global_multiplier=multiplier,
        multiplier_ratio=multiplier / dynamics_multiplier(shrunk, discount=DISCOUNT),
        dynamics_fit=dynamics,
        reward_fit=reward,
        radius=radius,
    )


def _system(key: Array) -> tuple[lqg.LQG, Array, Array]:
    system_key, gain_key, start_key = jax.random.split(key, 3)
    start = jax.random.normal(start_key, (_STATE,))
    return (
        lqg.make_lqg(system_key, dynamics_norm=DYNAMICS_NORM),
        lqg.make_gain(gain_key, norm=POLICY_NORM),
        start / jnp.linalg.norm(start),
    )


def _facts(key: Array) -> tuple[Array, Array]:
    """Lipschitz constant of the reward on the unit ball, and the rollouts' radius."""
    system, gain, start = _system(key)
    states, _ = lqg.rollout(system, gain, start, steps=_STEPS)
    norm = lambda block: jnp.linalg.norm(block, ord=2)
    cost, mixed = system.cost, norm(system.cost[:_STATE, _STATE:])
    slope_s = 2 * (norm(cost[:_STATE, :_STATE]) + mixed * POLICY_NORM)
    slope_a = 2 * (mixed + norm(cost[_STATE:, _STATE:]) * POLICY_NORM)
    radius = jnp.max(jnp.linalg.norm(states, axis=1))
    return jnp.maximum(slope_s, slope_a), radius


def _models(key: Array, n: int) -> Measured:
    """Fit `MODELS` models of one system to n samples each, and measure them."""
    system, gain, start = _system(key)
    keys = jax.random.split(jax.random.fold_in(key, n), MODELS)
    value = lambda model: lqg.discounted_return(model, gain, start, discount=DISCOUNT)
    true = value(system)
    real = lqg.rollout(system, gain, start, steps=_STEPS)

    def one(key):
        dynamics_key, reward_key = jax.random.split(key)
        model = _fit_reward(_fit_dynamics(system, dynamics_key, n), reward_key, n)
        wrong = jax.tree.map(lambda a, b: a - b, model, system)
        # The model's error in the dynamics alone and in the reward alone.
        in_f = wrong._replace(cost=jnp.zeros_like(wrong.cost), bonus=jnp.zeros(()))
        in_r = jax.tree.map(lambda a, b: a - b, wrong, in_f)
        moved = lambda by, h: jax.tree.map(lambda a, b: a + h * b, system, by)
        imagined = lqg.rollout(moved(in_f, 1.0), gain, start, steps=_STEPS)
        # The errors are themselves linear maps and quadratic forms.
        off = jnp.linalg.norm(lqg.dynamics(wrong, *imagined), axis=1)
        gap = lambda by, h: jnp.abs(value(moved(by, h)) - true)
        return Measured(
            dynamics_error=jnp.max(off),
            reward_error=jnp.max(jnp.abs(lqg.reward(wrong, *real))),
            dynamics_gap=gap(in_f, 1.0),
            reward_gap=gap(in_r, 1.0),
            dynamics_slope=gap(in_f, STEP) / STEP,
            reward_slope=gap(in_r, STEP) / STEP,
        )

    return jax.vmap(one)(keys)


def _samples(key: Array, n: int) -> tuple[Array, Array, Array]:
    z_key, noise_key = jax.random.split(key)
    z = jax.random.uniform(z_key, (n, _STATE + _ACTION), minval=-1.0)
    return z[:, :_STATE], z[:, _STATE:], noise_key


def _fit_dynamics(system: lqg.LQG, key: Array, n: int) -> lqg.LQG:
    states, actions, noise_key = _samples(key, n)
    targets = lqg.dynamics(system, states, actions)
    targets = targets + NOISE * jax.random.normal(noise_key, targets.shape)
    inputs = jnp.concatenate([states, actions, jnp.ones((n, 1))], axis=1)
    found = _least_squares(inputs, targets).T
    return system._replace(
        state_matrix=found[:, :_STATE],
        action_matrix=found[:, _STATE:-1],
        drift=found[:, -1],
    )


def _fit_reward(system: lqg.LQG, key: Array, n: int) -> lqg.LQG:
    states, actions, noise_key = _samples(key, n)
    targets = lqg.reward(system, states, actions)
    targets = targets + NOISE * jax.random.normal(noise_key, targets.shape)
    z = jnp.concatenate([states, actions], axis=1)
    rows, columns = np.triu_indices(_STATE + _ACTION)
    inputs = jnp.concatenate([-z[:, rows] * z[:, columns], jnp.ones((n, 1))], axis=1)
    found = _least_squares(inputs, targets[:, None])[:, 0]
    upper = jnp.zeros_like(system.cost).at[rows, columns].set(found[:-1])
    return system._replace(cost=(upper + upper.T) / 2, bonus=found[-1])


def _least_squares(inputs: Array, targets: Array) -> Array:
    return jnp.linalg.solve(inputs.T @ inputs, inputs.T @ targets)
