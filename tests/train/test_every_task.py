"""`python -m train.main` runs to its end on every task that the registry knows."""

import json
import re

import pytest
from kills import finish, start

import envs

PATIENCE = 1800.0  # seconds; a run takes one to four minutes of two idle cores

# What has no MuJoCo model has nothing to draw.
CASES = [(name, "state") for name in (*envs.TASKS, *envs.TOYS, *envs.SYNTHETIC)]
CASES += [(name, "pixels") for name in envs.TASKS]


@pytest.mark.slow
@pytest.mark.parametrize(("task", "obs"), CASES)
def test_a_smoke_run_ends(task, obs, tmp_path):
    run_dir = tmp_path / "run"
    process = start(f"--preset smoke --env {task} --obs {obs}", run_dir)
    try:
        process.wait(timeout=PATIENCE)
    finally:
        process.kill()
    said = finish(process, run_dir)
    (ended,) = re.findall(r"^finished at environment step (\d+); run ", said, re.M)
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    # What is not finite stands in the record as null.
    assert not [name for row in rows for name, value in row.items() if value is None]
    last = rows[-1]
    assert last["step"] == int(ended) >= 400 and last["train/updates"] > 0
    assert last["train/skipped_updates"] == last["episode/corrupt_rows"] == 0
    assert last["train/loss/dyn"] > 0 and "eval/return_mean" in last
