"""`python -m benchmarks.sensitivity` on saved runs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from saved_run import configured, random_state, save_run

from benchmarks.sensitivity.__main__ import draw, main, summary
from benchmarks.sensitivity.along import along
from core.smoothness import Inputs

pytestmark = pytest.mark.long


def test_arms_of_two_seeds(tmp_path, capsys):
    runs = []
    for name, words in (
        ("a0", "--penalty none --seed 0"),
        ("a1", "--penalty none --seed 1"),
        ("b0", "--penalty xla --seed 0"),
    ):
        config = configured(f"--env toy-target {words}")
        runs.append(save_run(tmp_path / name, config, random_state(config)))
    out = tmp_path / "out.json"
    assert main([*map(str, runs), "--quick", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    result = json.loads(out.read_text())
    rows = result["rows"]
    assert [row["run"] for row in rows] == ["a0", "a1", "b0"]
    assert rows[0]["arm"] == rows[1]["arm"] != rows[2]["arm"]
    assert "2 seeds" in rows[0]["arm"] and "kl posterior" in printed
    for row in rows:
        for part in ("posterior", "prior"):
            assert len(row["kl"][part]) == len(result["magnitudes"])
            assert min(row["kl"][part]) > 0 and row["jacobian"][part] > 0
    first, _ = summary(rows)
    assert first["agents"] == 2
    # The same parameters on the same trajectories: the spread over seeds is zero.
    assert first["kl posterior"] == pytest.approx((first["kl posterior"][0], 0))
    assert len(draw(rows).axes) == 4


def test_probabilities_along_a_line(tmp_path, capsys):
    """The mean square slope at t = 0 is at most the norm of the whole Jacobian."""
    agent = random_state(configured("--env toy-target")).learner.agent
    rssm, key = agent.model.rssm, jax.random.key(0)
    size = rssm.posterior_in.linear.weight.shape[0] - rssm.deter
    embeds = jax.random.normal(key, (5, size))
    line = along(agent, Inputs(jnp.zeros((5, rssm.deter)), embeds), key=key)
    np.testing.assert_allclose(line.probabilities.sum(-1), 1, rtol=1e-5)
    at = rssm.categorical.dist(
        rssm.posterior_logits(jnp.zeros((1, rssm.deter)), embeds[2:3])
    )
    middle = len(line.t) // 2
    np.testing.assert_allclose(line.probabilities[middle], at.probs[0], rtol=1e-5)
    length = jnp.mean(jnp.linalg.norm(embeds, axis=-1))
    sides = line.probabilities[middle + 1] - line.probabilities[middle - 1]
    slope = sides / ((line.t[middle + 1] - line.t[middle - 1]) * length)
    assert 0 < jnp.mean(jnp.sum(slope**2, -1)) <= line.jacobian

    run = str(
        save_run(
            tmp_path / "a",
            configured("--env toy-target"),
            random_state(configured("--env toy-target")),
        )
    )
    png = tmp_path / "along.png"
    assert main([run, "--quick", "--along", str(png)]) == 0
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "exact ‖J‖² of the posterior" in capsys.readouterr().out
    assert main([run, "--along", str(png), "--json", str(tmp_path / "x.json")]) == 2
    assert "not together with" in capsys.readouterr().err


def test_a_folder_without_a_run(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
