"""`--trust-every`: smoothness of the current agent, in the log of a run."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_run import assert_same_bits, configured, log_lines, vector_env

from core.loops import block_gru
from core.smoothness import agent_norms, jacobian_norms
from core.smoothness.heads import Inputs
from core.states import ObserveInputs
from train import loop
from train.main import main
from train.preflight.setup import short_intervals
from train.program.chunk import draw_batch
from train.program.penalty import choose_penalty
from train.rollout import trust

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("quick_compiles")]

COMMAND = "--preset smoke --env toy-target --penalty none --log-every 40"
SPREAD = [f"spectral_{name}" for name in ("posterior", "prior", "closed_loop")]
SPREAD += ["rows_posterior", "rows_prior", "growth"]


def made(words: str = "") -> loop.Programs:
    config = configured(words)
    return loop.Programs(config, vector_env(config), choose_penalty(config, "cpu"))


def measured(lines):
    return [line for line in lines if any(name[:6] == "trust/" for name in line)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("trust") / "run"
    words = f"{COMMAND} --trust-every 120 --steps 280 --logdir {run_dir}"
    assert main([*words.split(), "--replay-size", "140"]) == 0
    return run_dir


def test_it_is_logged_at_its_interval(trained):
    lines = log_lines(trained)
    steps = [line["step"] for line in measured(lines)]
    first, last = lines[0]["step"], lines[-1]["step"]
    # The untrained agent's, the first chunks past 120 and 240, and the last.
    after = [next(x["step"] for x in lines if x["step"] >= at) for at in (120, 240)]
    assert steps == sorted({first, *after, last}) and len(lines) > len(steps)
    for line in measured(lines):
        for name in SPREAD:
            middle, most = (line[f"trust/{name}_{x}"] for x in ("median", "largest"))
            assert 0 < middle <= most, name
        assert 0 <= line["trust/converged_prior"] <= 1
        assert 0 < line["trust/curvature_mean"] <= line["trust/curvature_largest"] <= 2
        assert 0 < line["trust/curvature_moving"] <= 1
    found = [line["trust/spectral_closed_loop_median"] for line in measured(lines)]
    assert len(set(found)) == len(found)


def test_others_see_it_too_and_the_training_is_the_same(trained, tmp_path):
    (events,) = (trained / "tensorboard").iterdir()
    assert b"trust/growth_median" in events.read_bytes()
    record = json.loads((trained / "config.json").read_text())
    assert record["trust_every"] == 120
    words = f"{COMMAND} --steps 280 --logdir {tmp_path}"
    assert main([*words.split(), "--replay-size", "140"]) == 0
    plain = log_lines(tmp_path)
    assert not measured(plain)
    kept = [
        {name: x for name, x in line.items() if not name.startswith("trust/")}
        for line in log_lines(trained)
    ]
    assert kept == plain


def test_the_interval_may_change_on_resume(trained):
    before = len(measured(log_lines(trained)))
    words = f"{COMMAND} --trust-every 40 --steps 360 --logdir {trained}"
    assert main([*words.split(), "--replay-size", "140"]) == 0
    lines = log_lines(trained)
    assert len(measured(lines)) >= before + 2 and "trust/growth_median" in lines[-1]


def test_without_it_nothing_is_made(monkeypatch):
    def refused(_):
        raise AssertionError("it was made")

    monkeypatch.setattr("train.placement.programs.make_trust", refused)
    assert made().trust is None
    with pytest.raises(AssertionError, match="made"):
        made("--trust-every 100")


def test_the_numbers_are_those_of_the_states_drawn():
    programs = made("--trust-every 100")
    run, _ = programs.prefill(programs.init(programs.keys(0)))
    agent, key = run.learner.agent, programs.keys(7)
    assert programs.trust is not None
    found = programs.trust(agent, run.replay, key)
    assert_same_bits(found, programs.trust(agent, run.replay, key))

    @jax.jit
    def by_hand(agent, buffer, key):
        first, second, third = jax.random.split(jax.random.fold_in(key, 2), 3)
        config = configured("--batch-size 32")
        rssm, dtype = agent.model.rssm, jnp.dtype("float32")
        initial, rows, _ = draw_batch(config, rssm, buffer, dtype=dtype, key=first)
        embeds = agent.model.encoder(rows.obs)
        _, seen = block_gru.observe(
            rssm, initial, ObserveInputs(embeds, rows.action, rows.is_first), key=second
        )
        last = jax.tree.map(lambda x: x[-1], seen.states)
        options = dataclasses.replace(trust.OPTIONS, maps=("prior",))
        norms = agent_norms(agent, last, embeds[-1], key=third, options=options)
        return jacobian_norms(rssm, Inputs(last.deter, embeds[-1])), norms

    rows, norms = by_hand(agent, run.replay, key)
    for name, values in rows.items():
        assert values.shape == (trust.STATES,)
        wanted = np.median(values), np.max(values)
        ours = found[f"rows_{name}_median"], found[f"rows_{name}_largest"]
        np.testing.assert_allclose(ours, wanted, rtol=1e-4)
    grown = norms.largest_growth.median
    assert grown.shape == (15,)
    np.testing.assert_allclose(found["growth_median"], grown[-1], rtol=1e-3)
    spectral = norms.maps["prior"].spectral
    np.testing.assert_allclose(
        found["spectral_prior_largest"], spectral.largest, rtol=1e-3
    )


def test_several_agents_have_their_own():
    programs = made("--trust-every 100 --seeds 2 --devices 1")
    run = programs.template
    assert programs.trust is not None
    found = jax.eval_shape(
        programs.trust.jitted, run.learner.agent, run.replay, programs.keys(1)
    )
    assert {x.shape for x in found.values()} == {(2,)}


def test_an_interval_below_a_chunk_is_said():
    (line,) = short_intervals(configured("--trust-every 20"))
    assert "--trust-every 20: once in every chunk of 40 steps" in line
