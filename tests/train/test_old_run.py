"""A run of an earlier version is scored and resumed, or refused with its version."""

import json
import pathlib
import tarfile

import pytest
from toy_run import log_lines

import core.sizes
import train.evaluate
import train.main
from train.checkpoint.checkpointer import Checkpointer

ARCHIVE = pathlib.Path(__file__).parents[1] / "fixtures" / "run-7c244bf.tar.xz"
AUTHOR = "written by smooth-dreamer 0.1.0 at commit 7c244bf1b1"
COMMAND = (
    "--preset smoke --env toy-target --num-envs 2 --batch-length 4 --prefill 20 "
    "--log-every 40 --save-every 1000 --eval-every 1000 --keep 1"
)
TINY = core.sizes.ModelSize(
    deter=8, hidden=4, classes=2, units=4, cnn_depth=2, stoch=2, blocks=2
)


pytestmark = [pytest.mark.long, pytest.mark.usefixtures("quick_compiles")]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network that the run was trained with."""
    monkeypatch.setitem(core.sizes.SIZES, "1m", TINY)


@pytest.fixture
def old_run(tmp_path: pathlib.Path) -> pathlib.Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "run-7c244bf"


def edit(path: pathlib.Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_it_is_scored(old_run, capsys):
    words = ["--run", str(old_run), "--episodes", "2"]
    assert train.evaluate.main(words) == 0
    out, err = capsys.readouterr()
    assert "environment step 156" in out and err == ""


def test_it_is_resumed_for_more_steps(old_run, capsys):
    """And the replay buffer keeps its size, though --replay-size is not given again."""
    before = log_lines(old_run)
    words = [
        *COMMAND.split(),
        "--steps",
        "190",
        "--logdir",
        str(old_run),
        "--resume",
        "must",
    ]
    assert train.main.main(words) == 0
    out, err = capsys.readouterr()
    assert "resuming at environment step 156" in out and err == ""
    kept = "replay buffer keeps its size of 40 decisions; --replay-size sets another"
    assert kept in " ".join(out.split())
    after = log_lines(old_run)
    assert after[: len(before)] == before and after[-1]["step"] >= 190
    assert after[-1]["train/updates"] > before[-1]["train/updates"]
    assert json.loads((old_run / "config.json").read_text())["replay_size"] == 40
    assert Checkpointer(old_run).steps() == [after[-1]["step"]]


@pytest.mark.parametrize("program", [train.evaluate, train.main])
def test_an_unknown_setting_is_refused_with_the_version(old_run, capsys, program):
    edit(old_run / "config.json", '"prefill"', '"fill_first"')
    words = ["--run", str(old_run)]
    if program is train.main:
        words = f"{COMMAND} --steps 190 --logdir {old_run}".split()
    assert program.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "unknown key fill_first" in line and AUTHOR in line


def test_other_arrays_are_refused_with_the_version(old_run, capsys, monkeypatch):
    monkeypatch.setitem(core.sizes.SIZES, "1m", core.sizes.ModelSize())
    assert train.evaluate.main(["--run", str(old_run), "--episodes", "2"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "does not fit this run: leaf .learner.agent" in line and AUTHOR in line


def test_without_its_log_of_starts_the_version_is_unknown(old_run, capsys):
    (old_run / "starts.jsonl").unlink()
    edit(old_run / "config.json", '"prefill"', '"fill_first"')
    assert train.evaluate.main(["--run", str(old_run)]) == 2
    assert "written by an unknown version" in capsys.readouterr().err
