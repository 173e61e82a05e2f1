"""The same report for systems whose truth is known, with errors planted in the model.

A model that is right differs from the truth by its random numbers alone. How often
something speaks against it is the false-alarm rate of the reasons in `verdict`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from benchmarks.trust.branches import Branches
from benchmarks.trust.episodes import Heads
from benchmarks.trust.measure import Measured, Plan, Starts
from benchmarks.trust.windows import Imagination, Windows, distances, imagined_returns
from core.theory.attribution import Recorded, System

EXPLORE = 0.2
"""Standard deviation of the noise of actions, the same in truth and model."""

Policy = Callable[[Array], Array]


class Case(NamedTuple):
    """A system, a model of it, and a policy.

    Attributes:
        starts: first state of each episode.
    """

    true: System
    model: System
    policy: Policy
    starts: Float[Array, "copies state"]


def make_measure_known(
    build: Callable[[PRNGKeyArray, Array], Case], plan: Plan, *, noise: float
) -> Callable[[PRNGKeyArray, Array], Measured]:
    """A function `(key, sizes) ↦ Measured`, compiled once for all cases.

    Args:
        build: makes a case from a key and the sizes of the planted errors.
        noise: standard deviation of what truth and model add to each entry of a next
            state, independently.
    """

    @jax.jit
    def run(key: PRNGKeyArray, sizes: Array, time: Array, copy: Array):
        build_key, key = jax.random.split(key)
        return _measure(build(build_key, sizes), time, copy, plan, noise, key)

    chosen = _choose(plan)

    def measure(key: PRNGKeyArray, sizes: Array) -> Measured:
        found = jax.device_get(run(key, sizes, *chosen))
        branches, realized, windows, length, value = found
        realized = np.asarray(realized, np.float64)
        return Measured(
            chosen,
            branches,
            realized[chosen],
            windows,
            {"‖s‖": np.asarray(length, np.float64)},
            (np.asarray(value, np.float64), realized),
        )

    return measure


def _choose(plan: Plan) -> Starts:
    rng = np.random.default_rng(plan.seed)
    shape = plan.decisions - plan.horizon, plan.copies
    time, copy = np.indices(shape).reshape(2, -1)
    chosen = rng.permutation(len(time))[: plan.starts]
    return Starts(time[chosen], copy[chosen])


def _imagination(system: System, policy: Policy, noise: float) -> Imagination[Array]:
    """The system itself, as something that imagines."""

    def one(state: Array, random: Array, explore: Array) -> tuple[Array, Array, Array]:
        action = policy(state) + EXPLORE * explore
        reached = system.dynamics(state, action) + noise * random
        return reached, system.reward(state, action), system.discount(state, action)

    one_step = _over(one)
    step = lambda state, random: one_step(state, *random)
    return Imagination(step, _over(system.value))


def _over(function: Callable[..., Any]) -> Callable[..., Any]:
    """Over all leading axes of vectors."""

    def mapped(*args: Array) -> Any:
        lead = args[0].shape[:-1]
        flat = [x.reshape(-1, x.shape[-1]) for x in args]
        split = lambda x: x.reshape(*lead, *x.shape[1:])
        return jax.tree.map(split, jax.vmap(function)(*flat))

    return mapped


def _measure(
    case: Case, time: Array, copy: Array, plan: Plan, noise: float, key: PRNGKeyArray
) -> tuple[Any, ...]:
    true, model, policy, starts = case
    real, guess = (_imagination(x, policy, noise) for x in (true, model))
    episode_key, imagine_key, branch_key, window_key = jax.random.split(key, 4)

    def forward(
        state: Array, random: tuple[Array, Array]
    ) -> tuple[Array, tuple[Array, ...]]:
        reached, reward, discount = real.step(state, random)
        _, r, d = guess.step(state, random)
        return reached, (state, reward, discount, r, d)

    random = _random(case, (plan.decisions, len(starts)), episode_key)
    last, rows = jax.lax.scan(forward, starts, random)
    states = jnp.concatenate([rows[0], last[None]])
    early = plan.decisions // 2
    values = real.value(states)
    # A critic without noise lacks what noise adds to the return, on average.
    missing = jnp.mean((_returns(rows[1], rows[2], values[-1]) - values)[:early])
    values = guess.value(states) + missing
    realized = _returns(rows[1], rows[2], values[-1])
    true, model = (_with_more(system, missing) for system in (true, model))
    guess = _imagination(model, policy, noise)
    chosen = Case(true, model, policy, states[time, copy])
    branches = _branch(chosen, plan.horizon, noise, (imagine_key, branch_key))
    variance = jnp.var(states, axis=(0, 1))
    scaled = lambda x: jnp.mean(x / jnp.broadcast_to(variance, x.shape), axis=-1)
    branches = branches._replace(
        error=scaled(branches.error), unchanged=scaled(branches.unchanged)
    )
    times = time[None] + jnp.arange(plan.steps)[:, None]
    at = times, jnp.broadcast_to(copy, times.shape)
    _, reward, discount, r, d = (x[at] for x in rows)
    # As for an agent: with the action noise of the episode.
    fresh, _ = _random(case, reward.shape, window_key)
    end = time + plan.steps, copy
    given = fresh, random[1][at]
    imagined = imagined_returns(guess, states[at], given)
    following = states[times + 1, at[1]]
    windows = Windows(
        Recorded(reward, discount, realized[end]),
        Recorded(r, d, values[end]),
        imagined,
        distances(following, guess.step(states[at], given)[0]),
    )
    length = jnp.linalg.norm(states[time, copy], axis=-1)
    return branches, realized, windows, length, values


def _returns(reward: Array, discount: Array, last: Array) -> Array:
    """Realized returns after each step, closed by `last`."""

    def backward(after: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        now = row[0] + row[1] * after
        return now, now

    found = jax.lax.scan(backward, last, (reward, discount), reverse=True)[1]
    return jnp.concatenate([found, last[None]])


def _with_more(system: System, constant: Array) -> System:
    return system._replace(value=lambda state: system.value(state) + constant)


def _random(
    case: Case, shape: tuple[int, ...], key: PRNGKeyArray
) -> tuple[Array, Array]:
    """Standard normal numbers for states and for actions."""
    keys = jax.random.split(key)
    state = case.starts[0]
    action = jax.eval_shape(case.policy, state)
    draw = lambda key, like: jax.random.normal(key, (*shape, *like.shape))
    return draw(keys[0], state), draw(keys[1], action)


def _branch(
    case: Case, horizon: int, noise: float, keys: tuple[PRNGKeyArray, PRNGKeyArray]
) -> Branches:
    """Imagined actions in the system; squared errors are still entry by entry."""
    true, model, policy, starts = case
    of = lambda system: (
        lambda s, a: (
            system.dynamics(s, a),
            system.reward(s, a),
            system.discount(s, a),
        )
    )
    move, guess = _over(of(true)), _over(of(model))
    act, value = _over(policy), _over(model.value)

    def step(carry: tuple[Array, Array], random: tuple[Array, Array, Array]):
        imagined, real = carry
        action = act(imagined) + EXPLORE * random[2]
        imagined, r, d = guess(imagined, action)
        real, reward, discount = move(real, action)
        imagined, real = imagined + noise * random[0], real + noise * random[1]
        return (imagined, real), (
            Heads(r, d, value(imagined)),
            reward,
            discount,
            jnp.square(real - imagined),
            jnp.square(real - starts),
        )

    shape = horizon, len(starts)
    fresh, explore = _random(case, shape, keys[0])
    random = fresh, _random(case, shape, keys[1])[0], explore
    _, seen = jax.lax.scan(step, (starts, starts), random)
    imagined, reward, discount, error, unchanged = seen
    none = jnp.zeros(len(starts))
    return Branches(
        imagined=imagined,
        start=Heads(none, none, value(starts)),
        reward=reward,
        discount=discount,
        known=jnp.ones_like(reward, bool),
        error=error,
        unchanged=unchanged,
    )
