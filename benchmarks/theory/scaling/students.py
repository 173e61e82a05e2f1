"""The students of Section 4.1: networks trained on n transitions of the teacher.

Students have one hidden layer of 64 ReLU units and are trained for 200 epochs by Adam
with learning rate 1e-3 and batch size 256, without schedule or early stopping
(Appendix C.2). All seeds of one n are trained in one program.
"""

import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from envs.synthetic import teacher

EPOCHS = 200
BATCH = 256
LEARNING_RATE = 1e-3

Init = Literal["torch", "lecun"]
"""Initialization: "torch" is PyTorch's default, as in the paper (weights and biases
uniform in ±1/√fan-in); "lecun" is normal with variance 1/fan-in and zero biases."""

Sampling = Literal["policy", "uniform"]
"""Source of transitions: "policy" subsamples episodes of the reference policy, as in
the paper; "uniform" draws states and actions uniformly from [-1, 1]."""

SUBSAMPLING = 5
"""Transitions of the reference policy per transition used."""

Parameters = tuple[Array, Array, Array, Array]


class Data(NamedTuple):
    """Inputs [s; a] and the targets: next states and rewards."""

    inputs: Float[Array, "*seeds n state+action"]
    next_states: Float[Array, "*seeds n state"]
    rewards: Float[Array, "*seeds n 1"]


def draw_data(
    made: teacher.Teacher, key: Key[Array, ""], n: int, *, sampling: Sampling
) -> Data:
    """Draw n transitions.

    Raises:
        ValueError: `sampling` is unknown.
    """
    _check("sampling", sampling, get_args(Sampling))
    state_dim, action_dim = made.policy.shape
    if sampling == "uniform":
        inputs = jax.random.uniform(key, (n, state_dim + action_dim), minval=-1.0)
        states, actions = inputs[:, :state_dim], inputs[:, state_dim:]
        after = teacher.dynamics(made, states, actions)
        return Data(inputs, after, teacher.reward(made, states, actions)[:, None])
    play_key, choice_key = jax.random.split(key)
    episodes = -(-n * SUBSAMPLING // teacher.EPISODE_STEPS)
    keys = jax.random.split(play_key, episodes)
    rows = jax.vmap(lambda k: teacher.reference_rollout(made, k))(keys)
    rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)
    chosen = jax.random.choice(choice_key, len(rows.rewards), (n,), replace=False)
    rows = jax.tree.map(lambda x: x[chosen], rows)
    inputs = jnp.concatenate([rows.states, rows.actions], axis=-1)
    return Data(inputs, rows.next_states, rows.rewards[:, None])


def initial_parameters(
    key: Key[Array, ""], sizes: Sequence[int], *, init: Init
) -> Parameters:
    """The two layers of a student with `sizes` = (inputs, hidden, outputs).

    Raises:
        ValueError: `init` is unknown.
    """
    _check("init", init, get_args(Init))
    parameters: list[Array] = []
    layers = zip(sizes[:2], sizes[1:], jax.random.split(key), strict=True)
    for fan_in, fan_out, layer in layers:
        weight_key, bias_key = jax.random.split(layer)
        shape, bound = (fan_in, fan_out), fan_in**-0.5
        if init == "torch":
            draw = functools.partial(jax.random.uniform, minval=-bound, maxval=bound)
            parameters += [draw(weight_key, shape), draw(bias_key, (fan_out,))]
        else:
            weight = bound * jax.random.normal(weight_key, shape)
            parameters += [weight, jnp.zeros(fan_out)]
    return (parameters[0], parameters[1], parameters[2], parameters[3])


def outputs(
    parameters: Parameters, inputs: Float[Array, "n inputs"], squash: Float[Array, ""]
) -> Float[Array, "n outputs"]:
    """The student's prediction, through a tanh if `squash` is positive."""
    w_in, b_in, w_out, b_out = parameters
    hidden = jax.nn.relu(inputs @ w_in + b_in[None])
    linear = hidden @ w_out + b_out[None]
    # One program for both heads, with the same initialization and data order.
    return jnp.where(squash > 0, jnp.tanh(linear), linear)


@functools.partial(jax.jit, static_argnames=("init", "hidden", "epochs"))
def train(
    keys: Key[Array, " seeds"],
    inputs: Float[Array, "seeds n inputs"],
    targets: Float[Array, "seeds n outputs"],
    held_out: tuple[Float[Array, "m inputs"], Float[Array, "m outputs"]],
    squash: Float[Array, " heads"],
    *,
    init: Init,
    hidden: int = teacher.HIDDEN,
    epochs: int = EPOCHS,
) -> Float[Array, "heads seeds"]:
    """Train a student for each head and seed.

    Args:
        keys: one per seed, for initialization and data order.
        inputs: one training set per seed.
        targets: likewise.
        held_out: inputs and targets for evaluation, shared by all students.
        squash: one entry per head, see `outputs`.
        init: see `Init`.
        hidden: number of hidden units.
        epochs: passes over the training set.

    Returns:
        Mean squared errors on the held-out data, after the last epoch.
    """
    n, batch = inputs.shape[1], min(BATCH, inputs.shape[1])
    steps = -(-n // batch)
    sizes = (inputs.shape[-1], hidden, targets.shape[-1])
    # The last batch of an epoch may be partial: its padding has weight 0.
    weights = (jnp.arange(steps * batch) < n).astype(inputs.dtype)
    weights = weights.reshape(steps, batch)
    optimizer = optax.adam(LEARNING_RATE)

    def one(squash, key, inputs, targets):
        init_key, order_key = jax.random.split(key)
        parameters = initial_parameters(init_key, sizes, init=init)

        def loss(parameters, x, y, weight):
            error = jnp.mean((outputs(parameters, x, squash) - y) ** 2, axis=-1)
            return jnp.sum(weight * error) / jnp.sum(weight)

        def step(carry, row):
            parameters, moments = carry
            chosen, weight = row
            slope = jax.grad(loss)(parameters, inputs[chosen], targets[chosen], weight)
            updates, moments = optimizer.update(slope, moments)
            parameters = jax.tree.map(jnp.add, parameters, updates)
            return (parameters, moments), None

        def epoch(carry, key):
            order = jax.random.permutation(key, n)
            order = jnp.pad(order, (0, steps * batch - n)).reshape(steps, batch)
            return jax.lax.scan(step, carry, (order, weights))[0], None

        start = (parameters, optimizer.init(parameters))
        (trained, _), _ = jax.lax.scan(
            epoch, start, jax.random.split(order_key, epochs)
        )
        x, y = held_out
        return jnp.mean((outputs(trained, x, squash) - y) ** 2)

    over_seeds = jax.vmap(one, in_axes=(None, 0, 0, 0))
    return jax.vmap(over_seeds, in_axes=(0, None, None, None))(
        squash, keys, inputs, targets
    )


def _check(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is unknown: use one of {list(allowed)}")
