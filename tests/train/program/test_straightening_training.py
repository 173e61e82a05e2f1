"""Training with the temporal-straightening loss, and without it."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_run import configured, log_lines, vector_env

import train.program.update as update_module
from benchmarks.suite.declare import load
from train.main import main
from train.program.state import init_run

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("quick_compiles")]

NAME = "train/loss/straightening"
# The learning rate and the weight are high, so that so short a run shows something.
COMMAND = "--preset smoke --env toy-target --penalty none --log-every 40 "
COMMAND += "--learning-rate 3e-4 --straightening 20"


def loss_of(weight: float):
    """A function of an agent: its total loss and metrics; and an agent."""
    config = configured(f"--straightening {weight}")
    env = vector_env(config)
    run = jax.jit(lambda key: init_run(config, env, key))(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 2)
    rows = jax.tree.map(
        lambda x: jnp.broadcast_to(x[:1], (4, *x[:1].shape[1:])), run.replay.rows
    )._replace(is_corrupt=None, deter=None, stoch=None)
    rows = rows._replace(obs=jax.random.normal(keys[0], rows.obs.shape))

    def loss(agent):
        total, (_, _, metrics) = update_module.total_loss(
            config,
            run.learner._replace(agent=agent),
            agent.model.rssm.initial(config.num_envs),
            rows,
            key=keys[1],
            options=update_module.UpdateOptions(None, jnp.dtype("float32")),
        )
        return total, metrics

    return loss, run.learner.agent


def test_it_is_added_with_its_weight():
    plain, some = (jax.jit(loss)(agent)[1] for loss, agent in map(loss_of, (0, 0.5)))
    value = some.pop("loss/straightening")
    assert 0 < value < 2
    added = some.pop("loss/total") - plain.pop("loss/total")
    np.testing.assert_allclose(added, 0.5 * value, rtol=1e-4)
    # The others are those of a run without it.
    assert some.keys() == plain.keys()
    chex.assert_trees_all_close(some, plain, rtol=1e-4)


def test_without_a_weight_the_program_has_nothing_of_it(monkeypatch):
    def refused(*_):
        raise AssertionError("it was asked for")

    def program(weight: float):
        loss, agent = loss_of(weight)
        return jax.make_jaxpr(jax.grad(loss, has_aux=True), return_shape=True)(agent)

    assert configured().loss.straightening == 0
    straightened, _ = program(0.5)
    monkeypatch.setattr(update_module, "straightening_loss", refused)
    plain, (_, metrics) = program(0)
    assert not [name for name in metrics if "straight" in name]
    assert len(str(plain)) < len(str(straightened))
    with pytest.raises(AssertionError, match="asked for"):
        program(0.5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("straight") / "run"
    assert main([*COMMAND.split(), "--logdir", str(run_dir)]) == 0
    return run_dir


def test_it_is_logged_and_falls(trained):
    curve = np.array([line[NAME] for line in log_lines(trained) if NAME in line])
    assert np.all(np.isfinite(curve)) and len(curve) >= 9
    # Measured: 1.31 to 0.13; and 1.32 to 1.03 with a weight of 1e-9.
    assert curve[-1] < 0.4 * curve[0]


def test_it_is_recorded_and_resumed(trained, capsys):
    record = json.loads((trained / "config.json").read_text())
    assert record["loss"]["straightening"] == 20
    longer = f"{COMMAND} --steps 480 --replay-size 200 --logdir {trained}"
    assert main(longer.split()) == 0
    assert "resuming at environment step 404" in capsys.readouterr().out
    last = log_lines(trained)[-1]
    assert last["step"] >= 480 and np.isfinite(last[NAME])
    other = longer.replace("--straightening 20", "--straightening 10")
    assert main(other.split()) == 2
    assert "--straightening: 20.0 -> 10.0" in capsys.readouterr().err


def test_the_ablation_has_weights_with_and_without_the_penalty():
    configs = load("ablations-straightening").configs
    found = {
        (config.penalty.active, config.loss.straightening)
        for (task, _), config in configs.items()
        if task == "walker-walk"
    }
    plain = {weight for penalty, weight in found if not penalty}
    assert 0 in plain and len(plain) >= 4
    assert (True, 0) in found and any(p and weight for p, weight in found)
