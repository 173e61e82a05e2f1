"""Configurations for Section 3.1, in float64 (the paper does not specify its own).

Both groups take every discount of `DISCOUNTS` and every γc of `CONTRACTIONS` (the LQG
group every c, so that its rollouts stay bounded), with a random factorization of
c = L_f (1 + L_π).

Synthetic (150): three families of globally Lipschitz systems, two draws each.
* aligned: f = L_f (s + a), π = L_π s, r = L_r (s + a), from s = 0, with constant
  errors: the instance that attains Lemma 1. The reward error changes sign in every
  second draw.
* tanh: random one-layer networks for f, f̂ - f and π, a sine for r and r̂ - r.
* distance: f rotates and contracts the state and adds the action; r is minus the
  distance to a goal state and a goal action; errors as in tanh.

LQG (375): `envs.synthetic.lqg`, fifteen systems each. The reward is Lipschitz only on a
bounded domain: the smallest ball that contains both rollouts. Errors are, in turn, in
the dynamics, in the reward and in both.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from core.theory.bounds import LipschitzConstants
from envs.synthetic import lqg

DISCOUNTS = (0.5, 0.7, 0.8, 0.9, 0.95)
CONTRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""γc (or c for LQG), with the paper's joint constants."""

STEPS = 800
"""Truncation of rollouts: 0.95^800 is 1e-18."""

FAMILIES = ("aligned", "tanh", "distance")
_STATE, _ACTION = 4, 2


class Configuration(NamedTuple):
    """One pair of system and model: the quantities in Lemma 1."""

    constants: LipschitzConstants
    discount: float
    gap: float
    dynamics_error: float
    reward_error: float


class Maps(NamedTuple):
    """A system and its model's errors, as functions of one state and action."""

    f: Callable[[Array, Array], Array]
    r: Callable[[Array, Array], Array]
    policy: Callable[[Array], Array]
    f_error: Callable[[Array, Array], Array]
    r_error: Callable[[Array, Array], Array]
    start: Array


class Draw(NamedTuple):
    """The parameters of configurations, with a leading axis over configurations."""

    key: Array
    dynamics_state: Any
    dynamics_action: Any
    reward_state: Any
    reward_action: Any
    policy: Any
    discount: Any
    sign: Any
    size: Any


def draw_constants(
    rng: np.random.Generator, *, draws: int, confined: bool = False
) -> Draw:
    """`draws` sets of constants for each discount and γc; with `confined`, each c."""
    grid = [(g, c) for g in DISCOUNTS for c in CONTRACTIONS for _ in range(draws)]
    discount, product = np.array(grid).T
    if confined:
        product = discount * product
    n = len(grid)
    policy = np.exp(rng.uniform(np.log(0.3), np.log(3.0), n))
    # The larger of the two constants is the paper's joint one; which one is random.
    dynamics = product / discount / (1 + policy)
    smaller = rng.uniform(0.3, 1.0, (2, n))
    first = rng.random((2, n)) < 0.5
    parts = [
        (np.where(f, 1.0, s), np.where(f, s, 1.0))
        for f, s in zip(first, smaller, strict=True)
    ]
    return Draw(
        key=jax.random.split(jax.random.key(int(rng.integers(2**31))), n),
        dynamics_state=dynamics * parts[0][0],
        dynamics_action=dynamics * parts[0][1],
        reward_state=parts[1][0],
        reward_action=parts[1][1],
        policy=policy,
        discount=discount,
        sign=np.where(np.arange(n) % 2 == 0, 1.0, -1.0),
        size=np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), n)),
    )


def synthetic_configurations(*, draws: int = 2) -> list[Configuration]:
    """The three families, 25 · `draws` configurations of each."""
    found = []
    rng = np.random.default_rng(0)
    makers = {"aligned": _aligned, "tanh": _tanh, "distance": _distance}
    for family in FAMILIES:
        draw = draw_constants(rng, draws=draws)
        if family == "aligned":  # state and action have the same constants
            draw = draw._replace(
                dynamics_state=np.maximum(draw.dynamics_state, draw.dynamics_action),
                dynamics_action=np.maximum(draw.dynamics_state, draw.dynamics_action),
                reward_state=np.ones_like(draw.size),
                reward_action=np.ones_like(draw.size),
            )
        with jax.enable_x64(True):
            maker = makers[family]
            measured = jax.jit(jax.vmap(lambda d, make=maker: _measure(make(d), d)))
            gap, dynamics_error, reward_error = map(np.asarray, measured(draw))
        for i in range(len(draw.size)):
            constants = LipschitzConstants(*(float(x[i]) for x in draw[1:6]))
            found.append(
                Configuration(
                    constants,
                    float(draw.discount[i]),
                    float(gap[i]),
                    float(dynamics_error[i]),
                    float(reward_error[i]),
                )
            )
    return found


def _measure(maps: Maps, draw: Draw) -> tuple[Array, Array, Array]:
    """The gap, and the largest errors along the imagined rollout."""

    def step(carry, _):
        s, s_hat = carry
        a, a_hat = maps.policy(s), maps.policy(s_hat)
        # Not f̂ - f, which suffers from cancellation if c > 1 and the states are large.
        f_error, r_error = maps.f_error(s_hat, a_hat), maps.r_error(s_hat, a_hat)
        row = (
            maps.r(s, a) - maps.r(s_hat, a_hat) - r_error,
            jnp.linalg.norm(f_error),
            jnp.abs(r_error),
        )
        return (maps.f(s, a), maps.f(s_hat, a_hat) + f_error), row

    _, (difference, dynamics, reward) = jax.lax.scan(
        step, (maps.start,) * 2, length=STEPS
    )
    weights = draw.discount ** jnp.arange(STEPS)
    gap = jnp.abs(jnp.sum(weights * difference))
    return gap, jnp.max(dynamics), jnp.max(reward)


def _aligned(draw: Draw) -> Maps:
    size = draw.size
    return Maps(
        f=lambda s, a: draw.dynamics_state * (s + a),
        r=lambda s, a: jnp.sum(s + a),
        policy=lambda s: draw.policy * s,
        f_error=lambda s, a: size * jnp.ones(1),
        r_error=lambda s, a: draw.sign * size,
        start=jnp.zeros(1),
    )


def _tanh(draw: Draw) -> Maps:
    keys = jax.random.split(draw.key, 10)
    w_s = _unit(keys[0], (_STATE, _STATE))
    w_a = _unit(keys[1], (_STATE, _ACTION))
    offset = jax.random.normal(keys[2], (_STATE,))
    return _learned(
        keys[4:],
        draw,
        f=lambda s, a: jnp.tanh(
            draw.dynamics_state * w_s @ s + draw.dynamics_action * w_a @ a + offset
        ),
        r=_sine(keys[3], draw),
    )


def _distance(draw: Draw) -> Maps:
    keys = jax.random.split(draw.key, 10)
    turn, _ = jnp.linalg.qr(jax.random.normal(keys[0], (_STATE, _STATE)))
    w_a = _unit(keys[1], (_STATE, _ACTION))
    goal = jax.random.normal(keys[2], (_STATE,))
    wanted = jax.random.normal(keys[3], (_ACTION,))

    def f(s, a):
        return draw.dynamics_state * turn @ s + draw.dynamics_action * w_a @ a

    def r(s, a):
        distance = draw.reward_state * jnp.linalg.norm(s - goal)
        return -distance - draw.reward_action * jnp.linalg.norm(a - wanted)

    return _learned(keys[4:], draw, f=f, r=r)


def _sine(key: Array, draw: Draw) -> Callable[[Array, Array], Array]:
    w_s, w_a = (
        _unit(k, (1, n))
        for k, n in zip(jax.random.split(key), (_STATE, _ACTION), strict=True)
    )
    return lambda s, a: jnp.sum(
        jnp.sin(draw.reward_state * w_s @ s + draw.reward_action * w_a @ a)
    )


def _learned(
    keys: Array,
    draw: Draw,
    *,
    f: Callable[[Array, Array], Array],
    r: Callable[[Array, Array], Array],
) -> Maps:
    """Add a policy, smooth random errors of `draw.size` and a start to a system."""
    gain = _unit(keys[0], (_ACTION, _STATE))
    wrong = jax.random.normal(keys[1], (_STATE, _STATE + _ACTION))
    shift = jax.random.normal(keys[2], (_STATE,))
    probe = jax.random.normal(keys[3], (_STATE + _ACTION,))
    phase = jax.random.uniform(keys[4], maxval=2 * jnp.pi)

    def joined(s, a):
        return jnp.concatenate([s, a])

    return Maps(
        f=f,
        r=r,
        policy=lambda s: jnp.tanh(draw.policy * gain @ s),
        f_error=lambda s, a: draw.size * jnp.tanh(wrong @ joined(s, a) + shift),
        r_error=lambda s, a: draw.size * jnp.sin(probe @ joined(s, a) + phase),
        start=jax.random.normal(keys[5], (_STATE,)),
    )


def lqg_configurations(*, draws: int = 15) -> list[Configuration]:
    """25 · `draws` linear systems with quadratic reward."""
    draw = draw_constants(np.random.default_rng(1), draws=draws, confined=True)
    with jax.enable_x64(True):
        kinds = np.arange(len(draw.size)) % 3
        measured = jax.jit(jax.vmap(_lqg))(draw, kinds != 1, kinds != 0)
        columns = [np.asarray(column) for column in measured]
    rows = zip(*columns, strict=True)
    return [
        Configuration(
            LipschitzConstants(
                float(draw.dynamics_state[i]),
                float(draw.dynamics_action[i]),
                float(reward_state),
                float(reward_action),
                float(draw.policy[i]),
            ),
            float(draw.discount[i]),
            float(gap),
            float(dynamics),
            float(reward),
        )
        for i, (gap, dynamics, reward, reward_state, reward_action) in enumerate(rows)
    ]


def _lqg(draw: Draw, wrong_dynamics: Array, wrong_reward: Array) -> tuple[Array, ...]:
    keys = jax.random.split(draw.key, 8)
    system = lqg.make_lqg(keys[0], dynamics_norm=1.0)
    system = system._replace(
        state_matrix=draw.dynamics_state * system.state_matrix,
        action_matrix=draw.dynamics_action * system.action_matrix,
    )
    gain = lqg.make_gain(keys[1], norm=draw.policy)
    start = jax.random.normal(keys[2], (3,))
    start = start / jnp.linalg.norm(start)
    in_f, in_r = draw.size * wrong_dynamics, draw.size * wrong_reward
    lopsided = jax.random.normal(keys[6], (5, 5))
    model = lqg.LQG(
        state_matrix=system.state_matrix + in_f * _unit(keys[3], (3, 3)),
        action_matrix=system.action_matrix + in_f * _unit(keys[4], (3, 2)),
        drift=system.drift + in_f * jax.random.normal(keys[5], (3,)),
        cost=system.cost + in_r * (lopsided + lopsided.T) / 10,
        bonus=system.bonus + in_r * jax.random.normal(keys[7]),
    )
    value = lambda s: lqg.discounted_return(s, gain, start, discount=draw.discount)
    real, _ = lqg.rollout(system, gain, start, steps=STEPS)
    states, actions = lqg.rollout(model, gain, start, steps=STEPS)
    deviation = lqg.dynamics(model, states, actions) - lqg.dynamics(
        system, states, actions
    )
    rewards = lqg.reward(model, states, actions) - lqg.reward(system, states, actions)
    # On ‖s‖ ≤ radius the policy's actions are within ‖K‖ radius, and the gradient of
    # zᵀ M z is 2 (M_ss s + M_sa a, M_as s + M_aa a).
    radius = jnp.maximum(*(jnp.max(jnp.linalg.norm(x, axis=1)) for x in (real, states)))
    norm = lambda block: jnp.linalg.norm(block, ord=2)
    cost, mixed = system.cost, norm(system.cost[:3, 3:])
    slope_s = 2 * radius * (norm(cost[:3, :3]) + mixed * draw.policy)
    slope_a = 2 * radius * (mixed + norm(cost[3:, 3:]) * draw.policy)
    return (
        jnp.abs(value(system) - value(model)),
        jnp.max(jnp.linalg.norm(deviation, axis=1)),
        jnp.max(jnp.abs(rewards)),
        slope_s,
        slope_a,
    )


def _unit(key: Array, shape: tuple[int, int]) -> Array:
    """A random matrix of spectral norm 1."""
    matrix = jax.random.normal(key, shape)
    return matrix / jnp.linalg.norm(matrix, ord=2)
