"""The optimizer against a plain numpy loop, and one whole update of a tiny agent."""

import dataclasses
import functools
from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from core.agent import Agent
from core.behavior.returns import ReturnScale
from core.penalty import PenaltyOptions
from core.sizes import ModelSize
from core.transition import Transition
from train.config import Config, OptimizerConfig, PenaltyConfig
from train.program.optimizer import (
    adaptive_clip,
    all_at_once,
    make_optimizer,
    one_by_one,
)
from train.program.state import Learner
from train.program.update import UpdateOptions, penalty_coefficient, update


def transform(optimizer, gradients, state, params) -> tuple[Any, Any]:
    """`optimizer.update`, whose result optax types as any tree at all."""
    return optimizer.update(gradients, state, params)


# Adaptive clipping


@pytest.mark.parametrize(
    ("parameter", "gradient", "wanted"),
    [
        # Norms 5 and 10: at most 0.3·5 = 1.5 is left.
        ([3.0, 4.0], [6.0, 8.0], [0.9, 1.2]),
        # Norm 1.4: below the bound, untouched.
        ([3.0, 4.0], [1.4, 0.0], [1.4, 0.0]),
        # A parameter of zeros counts as one of norm 1e-3.
        ([0.0, 0.0], [0.0, -2.0], [0.0, -3e-4]),
        ([0.0, 0.0], [0.0, 0.0], [0.0, 0.0]),
    ],
)
def test_adaptive_clip_by_hand(parameter, gradient, wanted):
    clip = adaptive_clip(0.3, 1e-3)
    params, gradients = jnp.array(parameter), jnp.array(gradient)
    clipped, _ = transform(clip, gradients, clip.init(params), params)
    np.testing.assert_allclose(clipped, wanted, rtol=1e-6)


def test_norms_all_at_once_are_those_one_by_one(getkey):
    shapes = [(), (3,), (1024,), (1025,), (40, 60), (2, 3, 5)]
    arrays = [(i + 1) * jax.random.normal(getkey(), s) for i, s in enumerate(shapes)]
    arrays.append(jnp.zeros(7))
    wanted = one_by_one(arrays)
    np.testing.assert_allclose(all_at_once(arrays), wanted, rtol=1e-6)
    assert wanted[-1] == 0.0


def test_adaptive_clip_takes_every_array_whole_and_by_itself():
    params = {"matrix": jnp.array([[3.0, 0.0], [0.0, 4.0]]), "bias": jnp.ones(4)}
    gradients = {"matrix": jnp.array([[6.0, 0.0], [8.0, 0.0]]), "bias": jnp.ones(4)}
    clip = adaptive_clip(0.3)
    clipped, _ = transform(clip, gradients, clip.init(params), params)
    # Column by column the matrix's norms would be 3 and 4.
    np.testing.assert_allclose(clipped["matrix"], [[0.9, 0], [1.2, 0]], rtol=1e-6)
    np.testing.assert_allclose(clipped["bias"], np.full(4, 0.3), rtol=1e-6)


# The chain

CONFIG = OptimizerConfig(learning_rate=0.02, warmup=4)


def gradients_of(step, params):
    """Gradients whose sizes differ by step and by tensor."""
    rng = np.random.default_rng(step)
    size = [1.0, 100.0, 0.01][step % 3]
    tree = {name: size * rng.normal(size=x.shape) for name, x in params.items()}
    if step < 2:
        tree["late"] = np.zeros(3)  # a root mean square of 0 at first
    return tree


def initial_params():
    rng = np.random.default_rng(100)
    return {
        "matrix": rng.normal(size=(3, 4)),
        "zero": np.zeros((2, 2)),
        "late": rng.normal(size=3),
    }


def laprop(params, steps, config):
    """The published order, in float64: clip, divide by the RMS, then momentum."""
    mean, square = ({k: 0.0 for k in params} for _ in range(2))
    history = []
    for count in range(1, steps + 1):
        rate = config.learning_rate
        if config.warmup:
            # The first update has count 0: nothing moves.
            rate *= min(count - 1, config.warmup) / config.warmup
        for name, gradient in gradients_of(count - 1, params).items():
            if config.agc:
                norm = np.sqrt(np.sum(params[name] ** 2))
                bound = config.agc * max(config.agc_floor, norm)
                gradient = gradient / max(1, np.sqrt(np.sum(gradient**2)) / bound)
            square[name] = config.beta2 * square[name]
            square[name] = square[name] + (1 - config.beta2) * gradient**2
            root = np.sqrt(square[name] / (1 - config.beta2**count))
            mean[name] = config.beta1 * mean[name]
            mean[name] = mean[name] + (1 - config.beta1) * gradient / (
                root + config.eps
            )
            step = mean[name] / (1 - config.beta1**count)
            params = params | {name: params[name] - rate * step}
        history.append(params)
    return history


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        dataclasses.replace(CONFIG, warmup=0),
        dataclasses.replace(CONFIG, agc=0.0, beta1=0.5, beta2=0.9),
        dataclasses.replace(CONFIG, eps=0.1, agc_floor=10.0),
    ],
)
def test_the_chain_equals_the_plain_loop(config):
    steps = 8
    start = initial_params()
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), start)
    optimizer = make_optimizer(config)
    state = optimizer.init(params)

    @jax.jit
    def apply(params, state, gradients):
        updates, state = transform(optimizer, gradients, state, params)
        return optax.apply_updates(params, updates), state

    for step, wanted in enumerate(laprop(start, steps, config)):
        gradients = jax.tree.map(jnp.float32, gradients_of(step, start))
        params, state = apply(params, state, gradients)
        for name, value in params.items():
            moved, by = value - start[name], wanted[name] - start[name]
            np.testing.assert_allclose(moved, by, rtol=5e-4, atol=1e-6)
    # The order matters here: momentum first would not give the same steps.
    assert np.abs(by).max() > 0.01


def test_the_first_update_of_the_warm_up_moves_nothing():
    params = {"x": jnp.ones(2)}
    optimizer = make_optimizer(CONFIG)
    state = optimizer.init(params)
    updates, state = transform(optimizer, {"x": jnp.ones(2)}, state, params)
    np.testing.assert_array_equal(updates["x"], np.zeros(2))
    # Constant gradients: from then on every step is the step size itself.
    for rate in (0.005, 0.01, 0.015, 0.02, 0.02):
        updates, state = transform(optimizer, {"x": jnp.ones(2)}, state, params)
        np.testing.assert_allclose(updates["x"], [-rate] * 2, rtol=1e-4)


# One update

OBS, ACTION, TIME, BATCH = 3, 2, 3, 2
PENALTY = PenaltyConfig(target="both", lambda0=0.4, lambda0_prior=0.8, lambda_min=0.05)
TINY = Config(
    imagination_length=2,
    penalty=PENALTY,
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup=2),
)


@pytest.fixture(scope="module")
def learner():
    """A tiny agent with random parameters whose slow value differs from its value."""
    size = ModelSize(units=4, deter=4, hidden=4, stoch=2, classes=3, blocks=2)
    build = functools.partial(Agent, OBS, ACTION, size=size)
    rng = np.random.default_rng(0)

    def fill(path, x):
        noise = rng.normal(size=x.shape)
        x = 1 + 0.3 * noise if path[-1].name == "scale" else 0.5 * noise
        return jnp.asarray(x, jnp.float32)

    shapes = eqx.filter_eval_shape(build, key=jax.random.key(0))
    agent = jax.tree_util.tree_map_with_path(fill, shapes)
    zero = jnp.zeros((), jnp.int32)
    return Learner(
        agent,
        jax.tree.map(lambda x: x + 1.0, agent.value),
        make_optimizer(TINY.optimizer).init(agent),
        ReturnScale.initial(),
        zero,
        zero,
        zero,
    )


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(1)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    no = jnp.zeros((TIME, BATCH), bool)
    return Transition(
        draw(TIME, BATCH, OBS),
        draw(TIME, BATCH, ACTION),
        draw(TIME, BATCH),
        no,
        no,
        no,
    )


@pytest.fixture(scope="module")
def step(learner):
    """One compiled update, starting from the zero state."""

    # Compiling is nearly all of the time, so it is told not to optimize.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(learner, batch):
        return update(
            TINY,
            learner,
            learner.agent.model.rssm.initial(BATCH),
            batch,
            key=jax.random.key(0),
            options=UpdateOptions(PenaltyOptions(target="both"), jnp.dtype("float32")),
        )

    return run


def moved(before, after):
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return [bool(jnp.any(a != b)) for a, b in pairs]


@pytest.mark.long
def test_the_total_is_the_weighted_sum(step, learner, batch):
    learner = learner._replace(updates=jnp.asarray(3000, jnp.int32))
    _, states, metrics = step(learner, batch)
    weights = {
        "rec": 1.0,
        "rew": 1.0,
        "con": 1.0,
        "dyn": 1.0,
        "rep": 0.1,
        "policy": 1.0,
        "value": 1.0,
        "repval": 0.3,
    }
    # 3000 updates of scale 1000 halve both coefficients.
    np.testing.assert_allclose(metrics["lambda/posterior"], 0.2, rtol=1e-6)
    np.testing.assert_allclose(metrics["lambda/prior"], 0.4, rtol=1e-6)
    total = sum(w * float(metrics[f"loss/{name}"]) for name, w in weights.items())
    for target, coefficient in (("posterior", 0.2), ("prior", 0.4)):
        assert metrics[f"penalty/{target}"] > 0
        total += coefficient * float(metrics[f"penalty/{target}"])
    np.testing.assert_allclose(metrics["loss/total"], total, rtol=1e-5)
    assert states.deter.shape == (TIME, BATCH, 4)
    assert states.stoch.shape == (TIME, BATCH, 2, 3)


def test_an_update_moves_everything_but_only_after_the_first(step, learner, batch):
    once, _, metrics = step(learner, batch)
    # The step size of the first update is 0, but the slow value and the statistics go.
    assert not any(moved(learner.agent, once.agent))
    assert metrics["gradient_norm"] > 0
    assert once.updates == 1
    assert once.skipped == 0
    assert any(moved(learner.return_scale, once.return_scale))
    twice, _, _ = step(once, batch)
    assert all(moved(once.agent, twice.agent))
    assert twice.updates == 2
    slow = jax.tree.map(
        lambda slow, new: 0.98 * slow + 0.02 * new, once.slow_value, twice.agent.value
    )
    chex.assert_trees_all_close(twice.slow_value, slow, rtol=1e-5, atol=1e-7)


def test_an_update_that_is_not_finite_is_left_out_and_counted(step, learner, batch):
    bad = batch._replace(reward=batch.reward.at[1, 0].set(jnp.nan))
    once, _, metrics = step(learner, bad)
    assert not jnp.isfinite(metrics["loss/total"])
    twice, _, _ = step(once, bad)
    assert (twice.updates, twice.skipped, twice.skipped_in_row) == (0, 2, 2)
    for name in ("agent", "slow_value", "optimizer", "return_scale"):
        assert not any(moved(getattr(learner, name), getattr(twice, name)))
    good, _, _ = step(twice, batch)
    assert (good.updates, good.skipped, good.skipped_in_row) == (1, 2, 0)


def test_coefficient_of_each_target(learner):
    later = learner._replace(updates=jnp.asarray(3000, jnp.int32))
    assert penalty_coefficient(TINY, learner, "posterior") == np.float32(0.4)
    assert penalty_coefficient(TINY, learner, "prior") == np.float32(0.8)
    assert penalty_coefficient(TINY, later, "posterior") == np.float32(0.2)
    # The prior's start defaults to the posterior's.
    plain = dataclasses.replace(
        TINY, penalty=dataclasses.replace(PENALTY, lambda0_prior=None)
    )
    assert penalty_coefficient(plain, later, "prior") == np.float32(0.2)


# Learning rates of its own for each head


SMALL = ModelSize(units=8, deter=16, hidden=8, stoch=3, classes=4, blocks=2)


@pytest.mark.long
@pytest.mark.parametrize("own", [("policy",), ("policy", "value")])
def test_each_head_is_trained_by_an_optimizer_of_its_own(own):
    """Against one optimizer for each learning rate, of all parameters."""
    agent: Any = Agent(3, 2, key=jax.random.key(0), size=SMALL)
    names = {"policy": "actor_learning_rate", "value": "critic_learning_rate"}
    rates = {"policy": 0.005, "value": 0.03}
    base = OptimizerConfig(learning_rate=0.02, warmup=2)
    both = dataclasses.replace(base, **{names[name]: rates[name] for name in own})

    def after(config: OptimizerConfig) -> Any:
        chain = make_optimizer(config)
        params, state = agent, chain.init(agent)
        for step in range(4):
            keys = iter(jax.random.split(jax.random.key(step), 200))
            draw = lambda x, keys=keys: jax.random.normal(next(keys), x.shape)
            updates, state = chain.update(jax.tree.map(draw, params), state, params)
            params = optax.apply_updates(params, updates)
        return params

    found = after(both)
    for name in ("model", "policy", "value"):
        rate = rates[name] if name in own else base.learning_rate
        wanted = after(dataclasses.replace(base, learning_rate=rate))
        chex.assert_trees_all_close(
            getattr(found, name), getattr(wanted, name), rtol=1e-6
        )
        moved = jax.tree.map(
            lambda x, y: np.any(x != y), getattr(found, name), getattr(agent, name)
        )
        assert any(jax.tree.leaves(moved))


def test_without_them_the_state_of_the_optimizer_is_as_before():
    params = {"w": jnp.ones(3)}
    state = jax.tree.structure(make_optimizer(CONFIG).init(params))
    assert state.num_leaves == 5  # two moments, their counts, the schedule's
