"""Training and evaluation with an exogenous latent error."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_run import assert_same_bits, configured, log_lines, vector_env

import train.program.update as update_module
from train import evaluate, loop
from train.config import LatentConfig
from train.config.cli import parse
from train.errors import UserError
from train.main import main
from train.policy import load_policy
from train.program.collect import collect_step
from train.program.penalty import choose_penalty
from train.program.state import init_run
from train.run_dir import record

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("quick_compiles")]


def after_a_chunk(words: str):
    config = configured(words)
    programs = loop.Programs(config, vector_env(config), choose_penalty(config, "cpu"))
    run, _ = programs.prefill(programs.init(programs.keys(0)))
    return programs.chunk(run)


def test_zero_error_trains_bitwise_as_without():
    plain, output = after_a_chunk("")
    zero, again = after_a_chunk("--latent-error zero-drift --latent-error-variance 0")
    assert_same_bits(plain, zero)
    assert_same_bits(output, again)


@pytest.mark.parametrize("words", ["", "--imagine-from clean"])
def test_training_with_an_error_is_finite(words):
    run, output = after_a_chunk(f"--latent-error drift {words}")
    assert all(np.isfinite(x) for x in output.metrics.values())
    assert int(run.learner.skipped) == 0 and int(run.learner.updates) > 0


def test_the_replay_buffer_stores_the_clean_latent_and_the_agent_sees_the_noisy_one():
    plain, noisy = configured(), configured("--latent-error drift")
    env, key = vector_env(plain), jax.random.key(4)
    run = init_run(plain, env, jax.random.key(0))
    step = lambda config: collect_step(
        config, env, run.learner.agent, (run.collector, run.replay), key
    )
    ((a, stored), _), ((b, also), _) = step(plain), step(noisy)
    assert_same_bits(stored, also)
    assert np.all(a.latent.stoch != b.latent.stoch)
    assert np.any(a.last_action != b.last_action)
    onehot = np.asarray(a.latent.stoch)
    assert stored.rows.stoch is not None
    np.testing.assert_array_equal(stored.rows.stoch[0], onehot.argmax(-1))


@pytest.mark.parametrize(("start", "noisy"), [("noisy", True), ("clean", False)])
def test_where_imagination_starts(start, noisy, monkeypatch):
    seen = []
    real = update_module.imagine

    def watching(model, heads, starts, *args, **options):
        seen.append(starts)
        return real(model, heads, starts, *args, **options)

    monkeypatch.setattr(update_module, "imagine", watching)
    config = configured(f"--latent-error zero-drift --imagine-from {start}")
    env = vector_env(config)
    run = init_run(config, env, jax.random.key(0))
    rows = jax.tree.map(
        lambda x: jnp.broadcast_to(x[:1], (3, *x[:1].shape[1:])), run.replay.rows
    )._replace(is_corrupt=None, deter=None, stoch=None)
    initial = run.learner.agent.model.rssm.initial(config.num_envs)
    options = update_module.UpdateOptions(None, jnp.dtype("float32"))
    _, (_, states, _) = update_module.total_loss(
        config, run.learner, initial, rows, key=jax.random.key(1), options=options
    )
    # What the update returns, for the replay buffer, is clean in any case.
    assert np.all(np.isin(np.round(states.stoch, 5), (0, 1)))
    (starts,) = seen
    stoch = np.asarray(starts.stoch)
    assert (not np.all(np.isin(np.round(stoch, 5), (0, 1)))) == noisy


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the smoke preset with a drifting error."""
    run_dir = tmp_path_factory.mktemp("noisy") / "run"
    words = "--preset smoke --env toy-target --latent-error drift --penalty none"
    assert main([*words.split(), "--logdir", str(run_dir)]) == 0
    return run_dir


def test_evaluations_report_both(trained):
    lines = [x for x in log_lines(trained) if "eval/return_mean" in x]
    assert len(lines) >= 2
    for line in lines:
        assert "eval/return_mean_without_error" in line
    assert any(
        x["eval/return_mean"] != x["eval/return_mean_without_error"] for x in lines
    )


def test_an_agent_trained_with_error_loads_and_acts_without_it(trained):
    policy, again = load_policy(trained), load_policy(trained)
    (size,) = policy._obs_shape
    actions = [[p(np.full(size, 0.3)) for _ in range(3)] for p in (policy, again)]
    chex.assert_trees_all_equal(*actions)
    z = np.asarray(policy._state.stoch)
    assert np.all(np.isin(z, (0, 1)))


def test_evaluate_plays_with_and_without(trained, tmp_path, capsys):
    path = tmp_path / "scores.json"
    words = ["--run", str(trained), "--episodes", "3", "--json", str(path)]
    assert evaluate.main(words) == 0
    report = json.loads(path.read_text())
    (agent,), (other,) = report["agents"], report["conditions"]
    assert other["condition"] == "latent error none"
    assert evaluate.main([*words, "--latent-error", "run", "none", "drift", "0"]) == 0
    rows = json.loads(path.read_text())["conditions"]
    found = {row["condition"].split()[-1]: row["returns"] for row in rows}
    assert found["run"] == found["drift"] == agent["returns"]
    assert found["0"] == found["none"]
    # A program of other conditions rounds otherwise.
    np.testing.assert_allclose(found["none"], other["returns"], rtol=1e-5)
    assert found["none"] != found["run"]
    capsys.readouterr()
    assert evaluate.main([*words, "--latent-error", "much"]) == 2
    assert "--latent-error much: not understood" in capsys.readouterr().err


def test_an_error_is_part_of_what_was_trained():
    """A resumed run keeps it; a run from before it existed has none."""
    config = configured("--latent-error drift")
    difference = record.diff(configured(), config)
    assert difference.refused == ["--latent-error: none -> drift"]
    old = record.to_dict(config)
    del old["latent"]
    assert record.from_dict(old).latent == LatentConfig()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--latent-error drift --drift-mean-low 6", "exceeds --drift-mean-high 5"),
        ("--latent-error zero-drift --latent-error-variance -1", "out of range"),
    ],
)
def test_settings_out_of_range_are_refused(words, message):
    with pytest.raises(UserError, match=message):
        parse(f"--preset smoke --env toy-target {words}".split(), "cpu")
