"""Run directories that look like a run and are none, or another."""

import json
import pathlib

import pytest
from toy_run import configured

from train.errors import UserError
from train.preflight.resume import check_resume
from train.run_dir import record
from train.run_dir.metrics import jsonl


@pytest.fixture
def trained(tmp_path: pathlib.Path) -> pathlib.Path:
    """What is left of a run whose checkpoints were deleted."""
    record.write(configured(""), tmp_path / "config.json")
    log = jsonl.JsonLines(tmp_path / "metrics.jsonl", restored_step=None, warn=print)
    log.write({"step": 40})
    log.close()
    return tmp_path


def test_a_record_without_checkpoints_is_that_of_a_run(trained):
    assert check_resume(configured(""), trained) == []
    with pytest.raises(UserError, match=r"another configuration .*--seed: 0 -> 1"):
        check_resume(configured("--seed 1"), trained)
    said = check_resume(configured("--seed 1 --allow-changes"), trained)
    assert "--seed: 0 -> 1" in said
    (trained / "metrics.jsonl").write_text("")  # nothing was trained
    assert check_resume(configured("--seed 1"), trained) == []


def test_other_settings_of_jax_are_named(trained):
    settings = {"JAX_DEFAULT_PRNG_IMPL": "rbg", "JAX_GONE_SINCE": 3}
    start = json.dumps({"settings": settings, "compiler": {}})
    (trained / "starts.jsonl").write_text(start + "\n")
    with pytest.raises(UserError, match=r"JAX \(JAX_DEFAULT_PRNG_IMPL: rbg -> three"):
        check_resume(configured(""), trained)
    said = check_resume(configured("--allow-changes"), trained)
    assert "JAX_DEFAULT_PRNG_IMPL: rbg -> threefry2x32" in said


@pytest.mark.parametrize("content", ["", "{", '{"algorithm": "ppo"}', "[" * 10**5])
def test_a_configuration_that_cannot_be_read_is_not_overwritten(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(
        UserError, match=r"config.json: .*allowed: another --logdir, or"
    ):
        check_resume(configured(""), tmp_path)
    (said,) = check_resume(configured("--allow-changes"), tmp_path)
    assert said.startswith("not compared: ")


def test_checkpoints_without_a_configuration_are_no_ones(tmp_path):
    (tmp_path / "checkpoints" / "000000000040").mkdir(parents=True)
    with pytest.raises(UserError, match=r"config.json: cannot be read .*allowed"):
        check_resume(configured(""), tmp_path)
    assert len(check_resume(configured("--allow-changes"), tmp_path)) == 1


def test_a_configuration_is_written_only_when_it_changed(tmp_path):
    path = tmp_path / "config.json"
    record.write(configured(""), path)
    path.chmod(0o444)
    before = path.stat().st_ino
    record.write(configured(""), path)
    assert path.stat().st_ino == before
    record.write(configured("--seed 1"), path)
    assert record.read(path).seed == 1
