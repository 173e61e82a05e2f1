"""Agents of a sweep are trained as each would be alone."""

import collections
import json
from typing import Any

import jax
import numpy as np
import pytest
from toy_run import assert_same_bits, configured, raw, vector_env

from benchmarks.curves import read_curves
from train import loop, watch
from train.evaluate import main as evaluate
from train.main import main
from train.placement import programs
from train.program.chunk import make_chunk
from train.program.penalty import choose_penalty

pytestmark = pytest.mark.long

WORDS = "--penalty xla --penalty-target both --rho 1"
SWEEP = "--sweep learning-rate=1e-3,1e-2 --sweep entropy=0.001,1"
ALONE = ["--learning-rate 1e-3 --entropy 0.001", "--learning-rate 1e-3 --entropy 1"]
ALONE += ["--learning-rate 1e-2 --entropy 0.001", "--learning-rate 1e-2 --entropy 1"]


def made(words: str) -> loop.Programs:
    config = configured(words)
    return loop.Programs(config, vector_env(config), choose_penalty(config, "cpu"))


def trained(words: str, chunks: int = 3) -> Any:
    """The state and the metrics of a few chunks."""
    ours = made(words)
    run = ours.init(ours.keys(0))._replace(sweep=ours.swept())
    start = jax.tree.map(raw, run.learner.agent)
    run, _ = ours.prefill(run)
    for _ in range(chunks):
        run, output = ours.chunk(run)
    return start, jax.tree.map(raw, run), jax.tree.map(np.asarray, output.metrics)


@pytest.fixture(scope="module")
def swept():
    return trained(f"{WORDS} {SWEEP} --sweep lambda0=0.5,5 --devices 1")


def agent(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda x: x[index], tree)


def test_agents_of_one_seed_begin_alike(swept):
    start, _, _ = swept
    for index in range(1, 8):
        assert_same_bits(agent(start, 0), agent(start, index))


@pytest.mark.parametrize("index", [0, 3, 6])
def test_an_agent_is_the_run_alone(swept, index):
    _, run, metrics = swept
    words = f"{ALONE[index // 2]} --lambda0 {(0.5, 5)[index % 2]}"
    start, alone, said = trained(f"{WORDS} {words}")
    assert int(alone.learner.updates) > 10
    assert run.learner.updates[index] == alone.learner.updates
    for name, value in said.items():
        np.testing.assert_allclose(
            metrics[name][index], value, rtol=2e-3, atol=1e-4, err_msg=name
        )
    moved = 0.0
    ours = jax.tree.leaves(agent(run, index).learner.agent)
    theirs = jax.tree.leaves(alone.learner.agent)
    for a, b, first in zip(ours, theirs, jax.tree.leaves(start), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)
        moved = max(moved, float(np.abs(b - first).max()))
    assert moved > 5e-3  # more than the tolerance


def test_agents_differ_by_their_values(swept):
    _, run, metrics = swept
    weights = raw(run.learner.agent.policy.mean.weight)
    for a in range(8):
        for b in range(a):
            assert np.abs(weights[a] - weights[b]).max() > 0
    ratio = metrics["lambda/posterior"][1] / metrics["lambda/posterior"][0]
    assert ratio == pytest.approx(10, rel=1e-5)


def test_the_chunk_is_traced_once(monkeypatch):
    traces = collections.Counter()

    def counting(*args: Any):
        chunk = make_chunk(*args)

        def counted(run):
            traces["chunk"] += 1
            return chunk(run)

        return counted

    monkeypatch.setattr(programs, "make_chunk", counting)
    ours = made(f"{SWEEP} --devices 1")
    jax.eval_shape(ours.chunk.jitted, ours.template)
    assert traces["chunk"] == 1


def test_without_a_sweep_the_state_has_no_further_leaf():
    ours = made("")
    assert ours.swept() is None and ours.template.sweep is None


def test_a_sweep_is_run_resumed_scored_and_drawn(tmp_path, capsys, monkeypatch):
    run_dir = tmp_path / "run"
    words = "--preset smoke --env toy-target --penalty none --log-every 40 --devices 1"
    words += f" --sweep entropy=0.001,1 --logdir {run_dir} --steps"
    assert main([*words.split(), "200"]) == 0
    assert "sweep        entropy=0.001,1: 2 settings, 1 seed of each" in (
        capsys.readouterr().out
    )
    assert main([*words.split(), "400"]) == 0
    folders = [f"seed_0,entropy={value}" for value in ("0.001", "1")]
    for folder in folders:
        assert (run_dir / folder / "tensorboard").is_dir()
        lines = (run_dir / folder / "metrics.jsonl").read_text().splitlines()
        steps = [json.loads(line)["step"] for line in lines]
        assert steps == sorted(steps) and steps[-1] >= 400
        assert any("eval/return_mean" in json.loads(line) for line in lines)
    other = words.replace("0.001,1", "0.001,2")
    capsys.readouterr()
    assert main([*other.split(), "400"]) == 2
    assert "--sweep: entropy=0.001,1 -> entropy=0.001,2" in capsys.readouterr().err
    assert evaluate(["--run", str(run_dir), "--episodes", "1"]) == 0
    out = capsys.readouterr().out
    assert "agent 0 (entropy=0.001)" in out and "agent 1 (entropy=1)" in out
    curves = read_curves([run_dir])
    labels = [f"toy-target, --entropy {value}, seed 0" for value in (0.001, 1.0)]
    assert [curve.label for curve in curves] == labels
    assert [seen.name for seen in watch.named(watch.look(run_dir))] == folders
