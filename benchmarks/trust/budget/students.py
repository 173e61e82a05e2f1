"""Reward heads and priors trained anew on few samples: their errors, and what those do.

A student has the architecture of the agent's own head. It is trained by Adam on the
first n of the samples, and its held-out error is taken where a validation half of the
held-out sequences says that training should have stopped.

What an error does to a return, its *realized* effect, is that along held-out sequences,
as `core.theory.attribution.attribute_recorded` has it with the critic as V̂:

    reward     Σ_t γ^t [r_t − r̂(x_t)]
    dynamics   Σ_t γ^t [(r̂ + d̂·v̂)(h_t, z_t) − (r̂ + d̂·v̂)(h_t, ẑ_t)]

with z_t the posterior's mean and ẑ_t the student prior's, and the agent's own heads.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from benchmarks.trust.budget.replayed import Rows
from benchmarks.trust.episodes import predict
from core.agent import Agent
from core.networks.heads import TwoHotHead
from core.networks.layers import Dense, Linear
from core.rssm import State

LEARNING_RATE, BATCH = 1e-3, 64


class Effort(NamedTuple):
    """How much is fitted.

    Attributes:
        seeds: students for each number of samples.
        rounds, updates: evaluations of a student, and updates before each.
    """

    seeds: int = 3
    rounds: int = 12
    updates: int = 150


class Learned(NamedTuple):
    """Of one part of the model; a row for each number of samples.

    Attributes:
        error: held-out root mean square error.
        effect: root mean square over held-out sequences of what it does to a return.
    """

    error: Float[np.ndarray, "counts seeds"]
    effect: Float[np.ndarray, "counts seeds"]


class Part(NamedTuple):
    """How a part is learned: a fresh student, its loss, its error and effect."""

    fresh: Callable[[PRNGKeyArray], Any]
    loss: Callable[[Any, Rows], Array]
    squared: Callable[[Any, Rows], Array]
    effect: Callable[[Any, Rows], Array]


def parts(agent: Agent) -> dict[str, Part]:
    """Dynamics (the prior of z given h) and reward head of an agent."""
    rssm, head = agent.model.rssm, agent.model.reward
    deter, hidden = rssm.prior_in[0].linear.weight.shape
    outputs = rssm.prior_out.weight.shape[1]
    units, bins = head.out.weight.shape

    def prior(key: PRNGKeyArray) -> Any:
        first, second, last = jax.random.split(key, 3)
        layers = Dense(deter, hidden, key=first), Dense(hidden, hidden, key=second)
        return layers, Linear(hidden, outputs, key=last)

    def reached(student: Any, rows: Rows) -> Any:
        where = lambda r: (r.prior_in, r.prior_out)
        return rssm.dist(eqx.tree_at(where, rssm, student).prior_logits(rows.deter))

    mean = lambda rows: rssm.dist(rows.posterior).mean()
    features = lambda rows: State(rows.deter, mean(rows)).features

    def worth(rows: Rows, stoch: Array) -> Array:
        heads = predict(agent, State(rows.deter, stoch))
        return heads.reward + heads.discount * heads.value

    reward = lambda student, rows: student(features(rows)).mean()
    return {
        "dynamics": Part(
            prior,
            lambda s, rows: rssm.dist(rows.posterior).kl(reached(s, rows)),
            lambda s, rows: jnp.sum(
                jnp.square(mean(rows) - reached(s, rows).mean()), axis=(-2, -1)
            ),
            lambda s, rows: (
                worth(rows, mean(rows)) - worth(rows, reached(s, rows).mean())
            ),
        ),
        "reward": Part(
            lambda key: TwoHotHead(
                deter + mean_size(agent),
                units,
                len(head.mlp.layers),
                key=key,
                bins=bins,
            ),
            lambda s, rows: s(features(rows)).loss(rows.reward),
            lambda s, rows: jnp.square(rows.reward - reward(s, rows)),
            lambda s, rows: rows.reward - reward(s, rows),
        ),
    }


def mean_size(agent: Agent) -> int:
    """Entries of z."""
    rssm = agent.model.rssm
    return rssm.categoricals * rssm.latents.entries


def learn(
    part: Part,
    samples: Rows,
    held: Rows,
    *,
    counts: tuple[int, ...],
    discount: float,
    effort: Effort,
    key: PRNGKeyArray,
) -> Learned:
    """Train students on the first n samples of a random order, for all n at once.

    Args:
        samples: single steps, one axis.
        held: sequences, time first; the first half of them is for validation.
        counts: all n.
    """
    keys = jax.random.split(key, (len(counts), effort.seeds))
    run = partial(_student, part, samples, held, discount, effort)
    every = jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, 0)))
    error, effect = jax.device_get(every(jnp.asarray(counts), keys))
    return Learned(np.asarray(error, np.float64), np.asarray(effect, np.float64))


def _student(
    part: Part,
    samples: Rows,
    held: Rows,
    discount: float,
    effort: Effort,
    count: Array,
    key: PRNGKeyArray,
) -> tuple[Array, Array]:
    total = len(samples.reward)
    order_key, init_key, draw_key = jax.random.split(key, 3)
    order = jax.random.permutation(order_key, total)
    student = part.fresh(init_key)
    descent = optax.adam(LEARNING_RATE)
    half = held.reward.shape[1] // 2
    check = jax.tree.map(lambda x: x[:, :half], held)
    test = jax.tree.map(lambda x: x[:, half:], held)

    def update(carry: tuple[Any, Any], key: PRNGKeyArray) -> tuple[tuple, None]:
        student, memory = carry
        chosen = order[jax.random.randint(key, (BATCH,), 0, count)]
        batch = jax.tree.map(lambda x: x[chosen], samples)
        slope = jax.grad(lambda s: jnp.mean(part.loss(s, batch)))(student)
        change, memory = descent.update(slope, memory)
        return (eqx.apply_updates(student, change), memory), None

    def trial(carry: tuple[Any, Any], key: PRNGKeyArray) -> tuple[tuple, tuple]:
        carry, _ = jax.lax.scan(update, carry, jax.random.split(key, effort.updates))
        student = carry[0]
        mean = lambda rows: jnp.mean(part.squared(student, rows), where=rows.valid)
        weight = discount ** jnp.arange(len(test.reward))[:, None]
        effects = jnp.where(test.valid, part.effect(student, test), 0.0)
        effect = jnp.mean(jnp.square(jnp.sum(weight * effects, axis=0)))
        return carry, (mean(check), mean(test), effect)

    start = student, descent.init(student)
    keys = jax.random.split(draw_key, effort.rounds)
    _, (checked, tested, effect) = jax.lax.scan(trial, start, keys)
    best = jnp.argmin(checked)
    return jnp.sqrt(tested[best]), jnp.sqrt(effect[best])
