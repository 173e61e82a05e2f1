"""Following runs in a terminal."""

import json
from pathlib import Path
from typing import Any

import pytest

from train import watch
from train.run_dir.lock import RunLock

CONFIG: dict[str, Any] = {"env": "walker-walk", "seed": 0, "steps": 4000}


def make_run(folder: Path, returns: list[float], **config: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    steps = [1000 * (i + 1) for i in range(len(returns))]
    records = [
        {"step": step, "eval/return_mean": value, "train/loss/total": 7.25}
        for step, value in zip(steps, returns, strict=True)
    ]
    ticks = [
        {"step": step, "time/seconds": step / 50, "time/steps_per_second": 50.0}
        for step in steps
    ]
    for name, rows in {"metrics": records, "timing": ticks}.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
    return folder


def test_what_the_files_say(tmp_path):
    run_dir = make_run(tmp_path / "a", [5.0, 9.0, 7.0])
    (seen,) = watch.look(run_dir)
    assert (seen.step, seen.total, seen.speed, seen.state) == (
        3000,
        4000,
        50,
        "stopped",
    )
    assert seen.curve is not None and seen.curve.evaluation.values == [5.0, 9.0, 7.0]
    with RunLock(run_dir):
        (seen,) = watch.look(run_dir)
    assert seen.state == "running"
    assert seen._replace(step=4000, total=364_000).left == "2:00"
    finished = make_run(tmp_path / "b", [1.0] * 4)
    assert watch.look(finished)[0].state == "finished"


def test_a_run_without_a_value_yet(tmp_path, capsys):
    run_dir = make_run(tmp_path / "a", [])
    (seen,) = watch.look(run_dir)
    assert (seen.curve, seen.step, seen.speed) == (None, 0, None)
    assert watch.main([str(run_dir), "--once"]) == 0
    assert "4,000" in capsys.readouterr().out


def test_the_curves_and_the_table(tmp_path, capsys):
    runs = [
        make_run(tmp_path / "x" / n / "seed-0", [1.0, 2.5]) for n in ("none", "all")
    ]
    assert watch.main([*map(str, runs), "--once"]) == 0
    out = capsys.readouterr().out
    assert "environment steps" in out and "2,000" in out
    assert "none/seed-0" in out and "all/seed-0" in out and "x/none" not in out
    assert watch.main([str(runs[0]), "--once", "--metric", "train/loss/total"]) == 0
    assert "7.25" in capsys.readouterr().out


def test_every_agent_of_several_seeds_has_a_row(tmp_path):
    run_dir = make_run(tmp_path / "a", [])
    (run_dir / "metrics.jsonl").unlink()
    for seed in range(2):
        make_run(run_dir / f"seed_{seed}", [float(seed)])
        (run_dir / f"seed_{seed}" / "config.json").unlink()
    names = [seen.name for seen in watch.named(watch.look(run_dir))]
    assert names == ["seed_0", "seed_1"]


def test_the_newest_runs_are_taken(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert watch.main(["--once"]) == 2
    assert "runs/: holds no run" in capsys.readouterr().err
    for name in ("a", "b", "c"):
        make_run(Path("runs") / name, [1.0])
    assert len(watch.newest_runs(Path("runs"), 2)) == 2
    assert watch.main(["--once", "--newest", "3"]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no-such"], "no-such"),
        (["{run}", "--metric", "train/los"], "train/loss/total"),
        (["{run}", "--evry", "3"], "--every"),
        (["{run}", "--every", "0"], "--every"),
    ],
)
def test_mistakes_are_answered_in_one_line(words, said, tmp_path, capsys):
    run_dir = str(make_run(tmp_path / "a", [1.0]))
    assert watch.main([word.format(run=run_dir) for word in words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_letters_of_an_old_terminal(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "_unicode", lambda: False)
    found = watch.look(make_run(tmp_path / "a", [1.0, 3.0]))
    assert found[0].curve is not None
    text = watch.draw([("a", found[0].curve)], None, 60, 12)
    assert "*" in text and "⣀" not in text
