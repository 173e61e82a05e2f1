"""The penalty's coefficient by the model's measured error (`--penalty-error`)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_run import configured, vector_env

import train.program.update as update_module
from train.program.penalty import choose_penalty, coefficients
from train.program.state import init_run

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("quick_compiles")]


def metrics_of(words: str):
    config = configured(f"--penalty xla {words}")
    env = vector_env(config)
    run = jax.jit(lambda key: init_run(config, env, key))(jax.random.key(0))
    rows = jax.tree.map(
        lambda x: jnp.broadcast_to(x[:1], (4, *x[:1].shape[1:])), run.replay.rows
    )._replace(is_corrupt=None, deter=None, stoch=None)
    rows = rows._replace(obs=jax.random.normal(jax.random.key(1), rows.obs.shape))

    @jax.jit
    def found(learner):
        _, (_, _, metrics) = update_module.total_loss(
            config,
            learner,
            learner.agent.model.rssm.initial(config.num_envs),
            rows,
            key=jax.random.key(2),
            options=update_module.UpdateOptions(
                choose_penalty(config, "cpu").options, jnp.dtype("float32")
            ),
        )
        return metrics

    return found(run.learner)


def test_lambda_is_in_proportion_to_the_measured_error():
    words = "--lambda0 0.5 --decay none --free-nats 0"
    plain = metrics_of(words)
    np.testing.assert_allclose(plain["lambda/posterior"], 0.5, rtol=1e-6)
    error = float(plain["loss/dyn"])
    assert error > 0
    annealed = metrics_of(f"{words} --penalty-error {4 * error}")
    np.testing.assert_allclose(annealed["lambda/posterior"], 0.125, rtol=1e-4)
    np.testing.assert_allclose(
        plain["loss/total"] - annealed["loss/total"],
        0.375 * plain["penalty/posterior"],
        rtol=1e-3,
        atol=1e-4,
    )
    accurate = metrics_of(f"{words} --penalty-error {error / 2}")
    np.testing.assert_allclose(accurate["lambda/posterior"], 0.5, rtol=1e-6)


def test_below_the_free_nats_there_is_no_error():
    found = metrics_of("--free-nats 1000 --penalty-error 1 --lambda-min 0.002")
    np.testing.assert_allclose(found["lambda/posterior"], 0.002, rtol=1e-6)


def test_it_is_said_in_words():
    penalty = configured("--penalty xla --penalty-error 0.5").penalty
    assert coefficients(penalty).endswith("weaker for a KL below 0.5 nats")
