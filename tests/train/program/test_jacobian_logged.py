"""The norm of the posterior's Jacobian is logged by every run, and changes none."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.agent import Agent
from core.behavior.returns import ReturnScale
from core.penalty import PenaltyOptions, posterior_jacobian
from core.sizes import ModelSize
from core.transition import Transition
from train.config.cli import parse
from train.program import update as update_module
from train.program.optimizer import make_optimizer
from train.program.state import Learner

pytestmark = pytest.mark.long

OBS, ACTION, TIME, BATCH = 3, 2, 4, 3
CONFIG = dataclasses.replace(
    parse(["--preset", "smoke", "--env", "toy-target", "--warmup", "0"], "cpu"),
    imagination_length=2,
)
SIZE = ModelSize(units=8, deter=16, hidden=8, stoch=3, classes=4, blocks=2)
PENALTIES = [None, PenaltyOptions(), PenaltyOptions(target="core")]


def learner() -> Learner:
    agent = Agent(OBS, ACTION, key=jax.random.key(0), size=SIZE)
    zero = jnp.zeros((), jnp.int32)
    state = make_optimizer(CONFIG.optimizer).init(agent)  # pyright: ignore
    slow = jax.tree.map(jnp.copy, agent.value)
    return Learner(agent, slow, state, ReturnScale.initial(), zero, zero, zero)


def batch(key) -> Transition:
    keys = jax.random.split(key, 3)
    flags = jnp.zeros((TIME, BATCH), bool)
    return Transition(
        jax.random.normal(keys[0], (TIME, BATCH, OBS)),
        jax.random.uniform(keys[1], (TIME, BATCH, ACTION), minval=-1.0),
        jax.random.uniform(keys[2], (TIME, BATCH)),
        flags.at[0].set(True),
        flags,
        flags,
    )


def update(learner, key, penalty, dtype="float32"):
    initial = learner.agent.model.rssm.initial(BATCH)
    return update_module.update(
        CONFIG,
        learner,
        initial,
        batch(key),
        key=key,
        options=update_module.UpdateOptions(penalty, jnp.dtype(dtype)),
    )


@pytest.fixture(scope="module")
def observed():
    model = learner().agent.model
    rows = batch(jax.random.key(1))
    embeds = model.encoder(rows.obs)
    _, seen = model.rssm.observe(
        model.rssm.initial(BATCH),
        embeds,
        rows.action,
        rows.is_first,
        key=jax.random.key(2),
    )
    return model.rssm, seen, embeds


def test_it_is_the_squared_norm_of_the_jacobian(observed):
    rssm, seen, embeds = observed

    def probabilities(u):
        logits = rssm.posterior_logits(u[: rssm.deter], u[rssm.deter :])
        return rssm.dist(logits).probs

    norms = []
    for deter, embed in zip(seen.states.deter[-1], embeds[-1], strict=True):
        jacobian = jax.jacobian(probabilities)(jnp.concatenate([deter, embed]))
        norms.append(jnp.sum(jacobian**2) / rssm.categoricals)
    assert np.std(norms) > 0.01 * np.mean(norms)  # of other states it is another
    found = posterior_jacobian(rssm, seen, embeds)
    np.testing.assert_allclose(found, np.mean(norms), rtol=1e-5)


def test_no_gradient_comes_from_it(observed):
    gradient = jax.grad(lambda inputs: posterior_jacobian(*inputs))(observed)
    assert not any(jnp.any(x != 0) for x in jax.tree.leaves(gradient))


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_logged_with_every_target_and_without_a_penalty(penalty, dtype):
    metrics = jax.eval_shape(
        lambda: update(learner(), jax.random.key(0), penalty, dtype)[2]
    )
    logged = metrics["jacobian/posterior"]
    assert (logged.shape, logged.dtype) == ((), jnp.float32)
    assert any(name.startswith("penalty/") for name in metrics) == (penalty is not None)


@pytest.mark.parametrize("penalty", PENALTIES[:2])
def test_training_is_the_same_to_the_last_bit_without_it(penalty, monkeypatch):
    start = jax.jit(learner)()

    def five_updates():
        step = jax.jit(lambda learner, key: update(learner, key, penalty))
        state, history = start, []
        for key in jax.random.split(jax.random.key(7), 5):
            state, _, metrics = step(state, key)
            history.append(metrics)
        return state, jax.tree.map(lambda *x: jnp.stack(x), *history)

    logged, metrics = five_updates()
    monkeypatch.setattr(update_module, "posterior_jacobian", lambda *_: jnp.zeros(()))
    plain, others = five_updates()
    assert np.all(metrics.pop("jacobian/posterior") > 0)
    assert not np.any(others.pop("jacobian/posterior"))
    chex.assert_trees_all_equal((logged, metrics), (plain, others))
    assert jnp.any(logged.agent.policy.mean.weight != start.agent.policy.mean.weight)
