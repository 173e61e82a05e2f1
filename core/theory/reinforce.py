"""REINFORCE in a small tabular MDP: exact moments and samples.

For K rollouts of H steps with a softmax policy π, scores w_t = ∇ log π(a_t|s_t) and
rewards-to-go G_t = Σ_{k≥t} γ^{k−t} r_k (*On Training in Imagination*, section 5):

    ĝ = (1/K) Σ_rollouts Σ_t γ^t w_t G_t        `discounted=True`
    ĝ = (1/K) Σ_rollouts Σ_t w_t G_t            `discounted=False`

The mean of the first is ∇J_H. The second weights states by their visit frequency
without γ^t. Its mean is not ∇J_H, nor the gradient of any function (its Jacobian is not
symmetric).

Exact quantities are computed with numpy in float64; `sample_estimates` uses JAX.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

_MOST_TRAJECTORIES = 2_000_000


class TabularMDP(NamedTuple):
    """A finite MDP with a finite horizon.

    Attributes:
        transition: P(s'|s,a), shape (states, actions, states).
        reward: r(s,a), shape (states, actions).
        initial: distribution of the initial state, shape (states,).
        discount: γ, from 0 to 1.
        horizon: H, the number of rewards in a rollout.
    """

    transition: Float[np.ndarray, "s a t"]
    reward: Float[np.ndarray, "s a"]
    initial: Float[np.ndarray, " s"]
    discount: float
    horizon: int


class Trajectories(NamedTuple):
    """All trajectories of positive probability, one per row."""

    states: Int[np.ndarray, "n time"]
    actions: Int[np.ndarray, "n time"]
    probability: Float[np.ndarray, " n"]


class Moments(NamedTuple):
    """Mean and variance of the estimator from one rollout.

    Attributes:
        mean: per coordinate, shape (states, actions).
        variance: sum over coordinates, as in the paper; divide by K for K rollouts.
    """

    mean: Float[np.ndarray, "s a"]
    variance: float


def random_mdp(
    states: int, actions: int, *, discount: float, horizon: int, seed: int
) -> tuple[TabularMDP, Float[np.ndarray, "s a"]]:
    """A random MDP and the logits of a random policy.

    Transition and initial distributions are Dirichlet(1); rewards and logits normal.
    """
    rng = np.random.default_rng(seed)
    mdp = TabularMDP(
        transition=rng.dirichlet(np.ones(states), (states, actions)),
        reward=rng.normal(size=(states, actions)),
        initial=rng.dirichlet(np.ones(states)),
        discount=discount,
        horizon=horizon,
    )
    return mdp, rng.normal(size=(states, actions))


def policy(logits: Float[np.ndarray, "s a"]) -> Float[np.ndarray, "s a"]:
    """π(a|s), the softmax of each row."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def score_moments(
    mdp: TabularMDP, logits: Float[np.ndarray, "s a"]
) -> Float[np.ndarray, " time"]:
    """E‖w_t‖² for every t, exactly: Σ_s P(s_t = s)·(1 − Σ_a π(a|s)²)."""
    spread = 1.0 - np.sum(policy(logits) ** 2, axis=1)
    return visits(mdp, logits) @ spread


def visits(
    mdp: TabularMDP, logits: Float[np.ndarray, "s a"]
) -> Float[np.ndarray, "time s"]:
    """P(s_t = s) for every t below the horizon."""
    step = np.einsum("sa,sat->st", policy(logits), mdp.transition)
    rows = [mdp.initial]
    for _ in range(mdp.horizon - 1):
        rows.append(rows[-1] @ step)
    return np.stack(rows)


def expected_return(mdp: TabularMDP, logits: Float[np.ndarray, "s a"]) -> float:
    """J_H = E Σ_{t<H} γ^t r_t, by backward recursion."""
    return float(mdp.initial @ _values(mdp, logits)[0].sum(axis=1))


def policy_gradient(
    mdp: TabularMDP, logits: Float[np.ndarray, "s a"], *, discounted: bool = True
) -> Float[np.ndarray, "s a"]:
    """The mean of the estimator without enumeration: ∇J_H if `discounted`.

    Σ_t c_t Σ_s P(s_t = s) Σ_a ∇π(a|s) Q_t(s,a) with c_t = γ^t if `discounted`, else 1.
    """
    weighted = _values(mdp, logits)  # π(a|s)·Q_t(s,a)
    advantage = weighted - policy(logits) * weighted.sum(axis=2, keepdims=True)
    weights = _step_weights(mdp, discounted)[:, None] * visits(mdp, logits)
    return np.einsum("ts,tsa->sa", weights, advantage)


def enumerate_trajectories(
    mdp: TabularMDP, logits: Float[np.ndarray, "s a"]
) -> Trajectories:
    """Every trajectory of positive probability, with its probability.

    Raises `ValueError` if there are more than two million.
    """
    chances = policy(logits)
    states = np.flatnonzero(mdp.initial)[:, None]
    actions = np.zeros((len(states), 0), dtype=states.dtype)
    probability = mdp.initial[states[:, 0]]
    for time in range(mdp.horizon):
        last = states[:, -1]
        row, action = np.nonzero(chances[last])
        probability = probability[row] * chances[last[row], action]
        states, actions = states[row], np.c_[actions[row], action]
        if time + 1 < mdp.horizon:
            arrivals = mdp.transition[states[:, -1], action]
            row, state = np.nonzero(arrivals)
            if len(row) > _MOST_TRAJECTORIES:
                raise ValueError(
                    f"mdp: more than {_MOST_TRAJECTORIES:,} trajectories of "
                    f"{mdp.horizon} steps; shorten the horizon or use sample_estimates"
                )
            probability = probability[row] * arrivals[row, state]
            states, actions = np.c_[states[row], state], actions[row]
    return Trajectories(states, actions, probability)


def estimates(
    mdp: TabularMDP,
    logits: Float[np.ndarray, "s a"],
    trajectories: Trajectories,
    rewards: Float[np.ndarray, "n time"],
    *,
    discounted: bool = True,
) -> Float[np.ndarray, "n s a"]:
    """The one-rollout estimator of each trajectory, given its rewards."""
    chances, one_hot = policy(logits), np.eye(logits.shape[1])
    weights = _step_weights(mdp, discounted)
    rows = np.arange(len(rewards))
    result = np.zeros((len(rewards), *logits.shape))
    to_go = np.zeros(len(rewards))
    for time in reversed(range(mdp.horizon)):
        state, action = trajectories.states[:, time], trajectories.actions[:, time]
        to_go = rewards[:, time] + mdp.discount * to_go
        score = one_hot[action] - chances[state]
        result[rows, state] += (weights[time] * to_go)[:, None] * score
    return result


def enumerated_moments(
    mdp: TabularMDP,
    logits: Float[np.ndarray, "s a"],
    *,
    noise: float = 0.0,
    discounted: bool = True,
) -> Moments:
    """Exact moments over all trajectories, with reward noise of standard deviation σ.

    Given a trajectory, the noise ξ_k of reward k multiplies a known vector: the
    estimator for a reward of 1 at time k and 0 elsewhere. So only the variance of the
    noise matters. Raises as `enumerate_trajectories`.
    """
    paths = enumerate_trajectories(mdp, logits)
    clean = estimates(
        mdp,
        logits,
        paths,
        mdp.reward[paths.states, paths.actions],
        discounted=discounted,
    )
    mean = np.tensordot(paths.probability, clean, axes=1)
    variance = paths.probability @ np.sum((clean - mean) ** 2, axis=(1, 2))
    if noise > 0.0:
        for time in range(mdp.horizon):
            unit = np.zeros(paths.states.shape)
            unit[:, time] = 1.0
            gains = estimates(mdp, logits, paths, unit, discounted=discounted)
            squares = np.sum(gains**2, axis=(1, 2))
            variance += noise**2 * (paths.probability @ squares)
    return Moments(mean, float(variance))


def expected_max_score(mdp: TabularMDP, logits: Float[np.ndarray, "s a"]) -> float:
    """E max_t ‖w_t‖², the factor in the paper's Theorem 2, by enumeration."""
    paths = enumerate_trajectories(mdp, logits)
    chances = policy(logits)
    squares = np.sum((np.eye(logits.shape[1])[None] - chances[:, None]) ** 2, axis=2)
    largest = squares[paths.states, paths.actions].max(axis=1)
    return float(paths.probability @ largest)


def sample_estimates(
    mdp: TabularMDP,
    logits: Float[np.ndarray, "s a"],
    key: PRNGKeyArray,
    *,
    count: int,
    noise: float = 0.0,
    bias: Float[np.ndarray, "s a"] | None = None,
    discounted: bool = True,
) -> Float[Array, "count s a"]:
    """The estimator of each of `count` independent rollouts, in float32.

    Args:
        noise: standard deviation σ of the normal noise on every reward.
        bias: b(s,a), added to the rewards; None means 0.
        discounted: whether the estimator has the factor γ^t.

    Raises `ValueError` if `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"count={count}: give a number of rollouts, at least 1")
    reward = mdp.reward if bias is None else mdp.reward + bias
    weights = _step_weights(mdp, discounted)
    single = lambda table: jnp.asarray(table, jnp.float32)
    return _sample(
        key,
        single(mdp.transition),
        single(reward),
        single(mdp.initial),
        single(logits),
        single(weights),
        mdp.discount,
        noise,
        count=count,
    )


def sampled_moments(
    samples: Float[Array, "count s a"],
) -> tuple[Moments, Float[np.ndarray, "s a"], float]:
    """Sample moments of the one-rollout estimator, and the standard error of each."""
    values = np.asarray(samples, np.float64)
    count = len(values)
    mean = values.mean(axis=0)
    squares = np.sum((values - mean) ** 2, axis=(1, 2))
    variance = float(squares.sum() / (count - 1))
    mean_error = values.std(axis=0, ddof=1) / count**0.5
    return Moments(mean, variance), mean_error, float(squares.std() / count**0.5)


@partial(jax.jit, static_argnames="count")
def _sample(
    key: PRNGKeyArray,
    transition: Array,
    reward: Array,
    initial: Array,
    logits: Array,
    weights: Array,
    discount: float,
    noise: float,
    *,
    count: int,
) -> Array:
    chances, actions = jax.nn.softmax(logits), jnp.eye(logits.shape[1])

    def rollout(key):
        first, *keys = jax.random.split(key, 1 + len(weights))

        def step(state, key):
            for_action, for_state, for_noise = jax.random.split(key, 3)
            action = jax.random.categorical(for_action, logits[state])
            observed = reward[state, action] + noise * jax.random.normal(for_noise)
            arrival = jnp.log(transition[state, action])
            after = jax.random.categorical(for_state, arrival)
            return after, (state, action, observed)

        def backward(to_go, observed):
            to_go = observed + discount * to_go
            return to_go, to_go

        start = jax.random.categorical(first, jnp.log(initial))
        _, (state, action, observed) = jax.lax.scan(step, start, jnp.stack(keys))
        _, to_go = jax.lax.scan(backward, 0.0, observed, reverse=True)
        scores = actions[action] - chances[state]
        terms = (weights * to_go)[:, None] * scores
        return jnp.zeros_like(logits).at[state].add(terms)

    return jax.vmap(rollout)(jax.random.split(key, count))


def _values(mdp: TabularMDP, logits: np.ndarray) -> np.ndarray:
    """π(a|s)·Q_t(s,a), shape (time, states, actions)."""
    chances = policy(logits)
    value, rows = np.zeros(len(mdp.initial)), []
    for _ in range(mdp.horizon):
        rows.append(chances * (mdp.reward + mdp.discount * mdp.transition @ value))
        value = rows[-1].sum(axis=1)
    return np.stack(rows[::-1])


def _step_weights(mdp: TabularMDP, discounted: bool) -> np.ndarray:
    """c_t = γ^t if discounted, else 1."""
    return (mdp.discount if discounted else 1.0) ** np.arange(mdp.horizon)
