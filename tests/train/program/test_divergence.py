"""NaN in an environment, in a batch, in a gradient; and a run that diverges."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_run import (
    SMOKE,
    Altered,
    Toy,
    assert_finite,
    assert_same_bits,
    log_lines,
    poisoned,
    shared,
)

from core.rssm import State
from core.transition import Transition
from train import loop
from train.checkpoint.checkpointer import Checkpointer
from train.config.cli import parse
from train.main import main
from train.program import divergence
from train.program import update as update_module
from train.program.chunk import Schedule, redraw
from train.program.divergence import Diverged, Watch, failing_terms
from train.program.state import RunState

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("quick_compiles")]


@pytest.fixture(scope="module")
def toy() -> Toy:
    return shared()


@pytest.fixture(scope="module")
def one_update(toy: Toy) -> Any:
    """One compiled update, whose gradient is NaN where the first reward is 1000."""
    intact = update_module.total_loss

    @jax.custom_jvp
    def trap(loss, reward):
        return loss

    @trap.defjvp
    def _(primals, tangents):
        slope = jnp.where(primals[1] == 1000, jnp.nan, 1.0)
        return primals[0], tangents[0] * slope

    def planted(*args: Any, **options: Any):
        batch = next(arg for arg in args if isinstance(arg, Transition))
        total, rest = intact(*args, **options)
        return trap(total, batch.reward[0, 0]), rest

    def update(learner, initial, batch, key):
        options = update_module.UpdateOptions(None, jnp.dtype("float32"))
        return update_module.update(
            toy.config, learner, initial, batch, key=key, options=options
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(update_module, "total_loss", planted)
        compiled = jax.jit(update)
        run = toy.filled()
        compiled(run.learner, *draw(toy, run, jax.random.key(0)))
    return compiled


def draw(toy: Toy, run: RunState, key: Any) -> tuple[State, Transition, Any]:
    rssm = run.learner.agent.model.rssm
    float32 = jnp.dtype("float32")
    initial, batch, _, key = redraw(
        toy.config, rssm, run.replay, dtype=float32, key=key
    )
    return initial, batch, key


def test_nan_in_one_environment_resets_it_alone(toy):
    before = toy.filled()
    clean, expected = toy.programs.chunk(jax.tree.map(jnp.copy, before))
    state = before.collector.env_state
    planted = state.inner.at[0].set(jnp.nan)
    collector = before.collector._replace(
        env_state=dataclasses.replace(state, inner=planted)
    )
    after, output = toy.programs.chunk(before._replace(collector=collector))
    assert output.episodes.corrupt == 1 and expected.episodes.corrupt == 0
    assert loop.log_metrics(toy.config, output)["episode/corrupt_rows"] == 1
    marked = np.asarray(after.replay.rows.is_corrupt)
    assert marked[:, 0].sum() == 1 and marked[:, 1].sum() == 0
    (row,) = np.flatnonzero(marked[:, 0])
    assert after.replay.rows.is_last[row, 0] and after.replay.rows.is_first[row + 1, 0]
    assert_finite((after.learner, after.collector.timestep, after.replay))
    assert output.skipped == 0 and output.updates == expected.updates
    # It cost the environment one decision, the rest of its episode, and no more.
    assert clean.collector.decisions - after.collector.decisions <= 1


def test_an_update_that_is_not_finite_is_skipped_and_counted(toy):
    schedule = Schedule.of(toy.config)
    updates = schedule.cycles * schedule.updates
    # Rows past the prefill are written over before they are drawn.
    before = poisoned(toy.filled(), slice(None))
    learner = jax.tree.map(jnp.copy, before.learner)
    after, output = toy.programs.chunk(before)
    assert output.skipped == output.skipped_in_row == updates
    assert output.updates == after.learner.updates == 0
    untouched = learner._replace(
        skipped=after.learner.skipped, skipped_in_row=after.learner.skipped_in_row
    )
    assert_same_bits(after.learner, untouched)


def test_one_bad_row_costs_the_updates_that_draw_it(toy):
    schedule = Schedule.of(toy.config)
    updates = schedule.cycles * schedule.updates
    run, output = toy.programs.chunk(poisoned(toy.filled(), slice(12, 13)))
    assert 0 < output.skipped < updates
    assert output.updates + output.skipped == updates
    assert_finite(run.learner)


def test_a_bad_gradient_behind_a_finite_loss_is_skipped(toy, one_update):
    run = toy.filled()
    initial, batch, key = draw(toy, run, jax.random.key(1))
    bad = batch._replace(reward=batch.reward.at[0, 0].set(1000))
    after, _, metrics = one_update(run.learner, initial, bad, key)
    values = {name: float(value) for name, value in metrics.items()}
    assert np.isfinite(values["loss/total"])
    assert failing_terms(values) == ["gradient_norm"]
    assert (after.updates, after.skipped, after.skipped_in_row) == (0, 1, 1)
    counters = {"skipped": after.skipped, "skipped_in_row": after.skipped_in_row}
    assert_same_bits(after, run.learner._replace(**counters))
    after, _, metrics = one_update(after, initial, batch, key)
    assert failing_terms({k: float(v) for k, v in metrics.items()}) == []
    assert (after.updates, after.skipped, after.skipped_in_row) == (1, 1, 0)
    assert_finite(after)


def dumped(directory: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    record = json.loads((directory / "diverged.json").read_text())
    with np.load(directory / "diverged.npz", allow_pickle=False) as arrays:
        return record, dict(arrays)


def test_a_diverged_run_stops_before_saving_and_leaves_the_batch(
    toy, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(loop, "MAX_SKIPPED_IN_ROW", 3)

    def fill(run: RunState):
        run, episodes = toy.programs.prefill(run)
        return poisoned(run, slice(None)), episodes

    programs = Altered(toy.programs, prefill=fill)
    monkeypatch.setattr(loop, "Programs", lambda *_: programs)
    assert main([*SMOKE.split(), "--logdir", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("diverged: 3 updates in a row had a loss")
    assert err.count("\n") == 1
    assert "loss/rew" in err and str(tmp_path) in err
    assert Checkpointer(tmp_path).steps() == []
    record, arrays = dumped(tmp_path)
    assert {"loss/rew", "loss/value"} & set(record["terms"])
    assert record["skipped_in_row"] >= 3 and record["updates"] == 0
    assert record["metrics"]["loss/rew"] == "nan" and record["metrics"]["loss/dyn"] > 0
    length = toy.config.batch_length
    assert arrays["reward"].shape == (length, toy.config.batch_size)
    assert np.isnan(arrays["reward"]).any()
    np.testing.assert_array_equal(arrays["key"], record["key"])
    assert record["cause"] == "learning" and record["corrupt_steps"] == 0


def all_corrupt(run: RunState) -> RunState:
    """The same run as if the simulation had diverged in every step so far."""
    rows = run.replay.rows
    written = jnp.arange(len(rows.reward)) < run.replay.filled
    corrupt = jnp.broadcast_to(written[:, None], rows.reward.shape)
    rows = rows._replace(is_corrupt=corrupt)
    return run._replace(replay=run.replay._replace(rows=rows))


@pytest.mark.parametrize(("limit", "counted"), [(3, 3), (10**6, 45)])
def test_a_simulation_that_always_diverges_is_named_as_the_cause(
    toy, tmp_path, monkeypatch, capsys, limit, counted
):
    """Not only the loss that shows it; also where the run is shorter than the limit."""
    monkeypatch.setattr(loop, "MAX_SKIPPED_IN_ROW", limit)
    programs = Altered(
        toy.programs, chunk=lambda run: toy.programs.chunk(all_corrupt(run))
    )
    monkeypatch.setattr(loop, "Programs", lambda *_: programs)
    assert main([*SMOKE.split(), "--logdir", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert err.startswith(f"diverged: {counted} updates in a row before environment")
    assert "because of corrupt steps: the simulation diverged (NaN or Inf) in" in err
    assert "no sequence of 9 sound steps" in err and err.count("\n") == 1
    record, _ = dumped(tmp_path)
    assert record["cause"] == "corrupt steps"
    # Some: what the last chunk added is sound.
    assert 0 < record["corrupt_steps"] < record["stored_steps"]
    if limit > counted:
        assert "skipped updates" in out


def test_corrupt_steps_beside_another_cause_are_counted(toy, tmp_path):
    """The losses diverged on sound data; the two are not mixed up."""
    run = poisoned(toy.filled(), slice(None))
    run, output = toy.programs.chunk(run)
    rows = run.replay.rows
    planted = rows.is_corrupt.at[0, 0].set(True)
    run = run._replace(
        replay=run.replay._replace(rows=rows._replace(is_corrupt=planted))
    )
    watch = Watch(toy.config, tmp_path, print, limit=3)
    with pytest.raises(Diverged) as caught:
        watch.look(run, jax.tree.map(np.asarray, output), 100, [])
    assert "3 updates in a row had a loss or gradient" in str(caught.value)
    assert "diverged (NaN or Inf) in 1 of " in str(caught.value)


def test_a_run_that_diverges_later_keeps_its_last_good_checkpoint(
    toy, tmp_path, monkeypatch, capsys
):
    """Every chunk is saved, but not the one that diverged."""
    monkeypatch.setattr(loop, "MAX_SKIPPED_IN_ROW", 3)

    def chunk(run):
        bad = loop.env_steps(toy.config, run) > 200
        return toy.programs.chunk(poisoned(run, slice(None)) if bad else run)

    programs = Altered(toy.programs, chunk=chunk)
    monkeypatch.setattr(loop, "Programs", lambda *_: programs)
    words = [*SMOKE.split(), "--save-every", "1", "--logdir", str(tmp_path)]
    assert main(words) == 1
    good, last = Checkpointer(tmp_path).steps(), log_lines(tmp_path)[-1]["step"]
    assert good[-1] == last and 200 < last < toy.config.steps
    assert f"last good checkpoint: of step {good[-1]:,}" in capsys.readouterr().err
    restored = Checkpointer(tmp_path).restore(toy.programs.template)
    assert restored is not None and restored.step == last
    assert_finite(restored.tree.learner)


def test_a_run_of_which_one_agent_diverged_ends_with_an_error(
    toy, tmp_path, monkeypatch
):
    monkeypatch.setattr(Watch, "look", lambda self, *_, **__: self.diverged.add(1))
    assert toy.train(tmp_path)[1] == 1
    assert Checkpointer(tmp_path).steps()


def test_the_batch_written_down_is_the_one_that_failed(toy, one_update, tmp_path):
    """Run again, its update gives the same numbers, those that are finite too."""
    run, tries = poisoned(toy.filled(), slice(12, 13)), 0
    while True:
        run, output = toy.programs.chunk(run)
        output = jax.tree.map(np.asarray, output)
        if output.skipped_in_row:
            break
        run, tries = poisoned(run, slice(12, 13)), tries + 1
        assert tries < 20
    drawn = jax.tree.map(np.asarray, divergence.last_batch(toy.config, run, output))
    found = divergence.dump(
        toy.config, output, drawn, directory=tmp_path, step=1, agent=0
    )
    record, arrays = dumped(tmp_path)
    assert "loss/rew" in found == record["terms"]
    assert np.isnan(arrays["reward"]).any() and not np.isnan(arrays["reward"]).all()
    put = lambda name: jax.device_put(arrays[name], jax.devices()[0])
    batch = Transition(**{name: put(name) for name in Transition._fields[:6]})
    initial = State(put("initial_deter"), put("initial_stoch"))
    key = jax.random.split(jax.random.wrap_key_data(put("key")))[1]
    *_, metrics = one_update(run.learner, initial, batch, key)
    assert metrics.keys() == record["metrics"].keys()
    for name, value in metrics.items():
        wanted = float(record["metrics"][name])
        np.testing.assert_allclose(float(value), wanted, rtol=1e-4, err_msg=name)


def test_of_several_agents_the_last_to_diverge_stops_the_run(toy, tmp_path):
    config = parse([*SMOKE.split(), "--seeds", "2"], "cpu")
    run = toy.filled()
    run, output = toy.programs.chunk(poisoned(run, slice(None)))
    both = lambda tree: jax.tree.map(lambda x: jnp.stack([x, x]), tree)
    run, output = both(run), both(output)
    warnings: list[str] = []
    watch = Watch(config, tmp_path, warnings.append, limit=3)
    for agent in (0, 1):
        (tmp_path / f"seed_{agent}").mkdir()

    def look(*in_row: int) -> None:
        counts = output._replace(skipped_in_row=np.array(in_row))
        watch.look(run, counts, 100, [40])

    look(2, 2)
    assert warnings == [] and not watch.diverged
    for _ in range(2):  # said once
        look(1, 3)
    (warning,) = warnings
    assert "3 updates in a row of seed 1" in warning
    assert "the other agents go on" in warning
    assert watch.diverged == {1}
    assert not (tmp_path / "seed_0" / "diverged.json").exists()
    assert dumped(tmp_path / "seed_1")[0]["seed"] == 1
    with pytest.raises(Diverged, match=r"of seed 0 .*last good checkpoint: of step 40"):
        look(3, 3)
    assert len(warnings) == 1 and dumped(tmp_path / "seed_0")[0]["seed"] == 0


@pytest.mark.parametrize(
    ("bad", "terms"),
    [
        (["loss/rew", "loss/total", "gradient_norm"], ["loss/rew"]),
        (["loss/total", "gradient_norm"], ["gradient_norm"]),
        (["gradient_norm"], ["gradient_norm"]),
        (["penalty/posterior", "loss/total", "gradient_norm"], ["penalty/posterior"]),
        ([], []),
    ],
)
def test_terms_are_named(bad, terms):
    names = ["loss/rew", "loss/total", "gradient_norm", "penalty/posterior"]
    assert failing_terms({n: np.nan if n in bad else 1.0 for n in names}) == terms
