"""Training, evaluation and reports with `--latent gaussian`."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from saved_run import random_state, save_run
from toy_run import configured, log_lines, vector_env

from benchmarks.robustness.__main__ import main as robustness
from benchmarks.sensitivity.__main__ import main as sensitivity
from benchmarks.trust.__main__ import main as trust
from core.latents import Categorical, Gaussian
from train import evaluate, loop
from train.config import replay_bytes
from train.main import main
from train.policy import load_policy
from train.program.latent import latents
from train.program.penalty import choose_penalty
from train.run_dir import record

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("quick_compiles")]

WORDS = "--latent gaussian --penalty xla --penalty-target core"


def test_the_family_follows_the_flags():
    assert latents(configured()) == Categorical(4, 0.01)
    config = configured("--latent gaussian --latent-std-floor 0.3")
    assert latents(config) == Gaussian(0.3)
    # A run from before the setting existed; one that is resumed.
    old = record.to_dict(config)
    for name in ("family", "std_floor"):
        del old["latent"][name]
    assert record.from_dict(old).latent == configured().latent
    refused = record.diff(configured(), configured("--latent gaussian")).refused
    assert refused == ["--latent: categorical -> gaussian"]


def test_training_with_an_error_is_finite():
    config = configured(f"{WORDS} --latent-error drift --trust-every 40")
    env = vector_env(config)
    programs = loop.Programs(config, env, choose_penalty(config, "cpu"))
    run, _ = programs.prefill(programs.init(programs.keys(0)))
    run, output = programs.chunk(run)
    assert all(np.isfinite(x) for x in output.metrics.values())
    assert int(run.learner.skipped) == 0 and int(run.learner.updates) > 0
    assert output.metrics["penalty/core"] > 0
    assert output.metrics["jacobian/posterior"] > 0
    rows = run.replay.rows
    assert rows.stoch is not None and rows.stoch.dtype == jnp.bfloat16
    said = replay_bytes(config, obs_shape=env.spec.obs_shape, action_dim=1)
    stored = [x for x in rows if x is not None]
    assert sum(x.nbytes for x in stored) == said
    # Stored are real numbers, without the error, whose mean is 2.5.
    z = np.asarray(rows.stoch[: int(run.replay.filled)], float)
    assert len(np.unique(z)) > 100 and abs(z.mean()) < 1.0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the smoke preset."""
    run_dir = tmp_path_factory.mktemp("gaussian") / "run"
    words = f"--preset smoke --env toy-target {WORDS}"
    assert main([*words.split(), "--logdir", str(run_dir)]) == 0
    return run_dir


@pytest.mark.slow
def test_a_run_logs_loads_and_is_evaluated(trained, tmp_path):
    lines = log_lines(trained)
    assert any("train/penalty/core" in line for line in lines)
    assert all(np.isfinite(x) for line in lines for x in line.values())
    policy = load_policy(trained)
    (size,) = policy._obs_shape
    for _ in range(2):
        assert np.all(np.abs(policy(np.full(size, 0.3))) <= 1)
    assert policy._state.stoch.shape[-2:] == (32, 1)
    path = tmp_path / "scores.json"
    words = ["--run", str(trained), "--episodes", "2", "--json", str(path)]
    assert evaluate.main([*words, "--latent-error", "drift"]) == 0
    report = json.loads(path.read_text())
    assert np.all(np.isfinite(report["conditions"][0]["returns"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "flag"),
    [(trust, ["--run"]), (robustness, ["--run"]), (sensitivity, [])],
    ids=["trust", "robustness", "sensitivity"],
)
def test_reports_on_a_run(program, flag, tmp_path):
    config = configured(WORDS)
    run = save_run(tmp_path / "run", config, random_state(config), (200, 400))
    path = tmp_path / "report.json"
    assert program([*flag, str(run), "--quick", "--json", str(path)]) == 0
    assert path.exists()
