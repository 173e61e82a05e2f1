"""What becomes of a result: on the disk first, and never lost."""

import argparse
import json

import pytest
from matplotlib.figure import Figure

from benchmarks import cli
from train.errors import UserError


def options(tmp_path, **given):
    defaults = {"json": tmp_path / "a" / "r.json", "png": tmp_path / "b" / "r.png"}
    return argparse.Namespace(**(defaults | {"quick": False} | given))


def test_the_result_is_written_before_anything_is_printed(tmp_path, monkeypatch):
    asked = options(tmp_path)

    def dies(*_, **__):
        assert json.loads(asked.json.read_text())["x"] == 1
        raise RuntimeError("the terminal is gone")

    monkeypatch.setattr("builtins.print", dies)
    with pytest.raises(RuntimeError, match="the terminal is gone"):
        cli.publish(asked, {"x": 1}, "table", Figure)
    monkeypatch.undo()
    assert json.loads(asked.json.read_text())["what"] == "a measurement"


def test_printed_written_and_drawn(tmp_path, capsys):
    asked = options(tmp_path, quick=True)
    cli.publish(asked, {"x": 1}, "a table", Figure)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "a table" and said[1].startswith("--quick: a check of the")
    assert said[2:] == [f"wrote {asked.json}", f"drew {asked.png}"]
    assert json.loads(asked.json.read_text())["what"] == "a check of the machinery"
    assert asked.png.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("flag", ["json", "png"])
def test_a_file_that_cannot_be_written_loses_nothing(tmp_path, capsys, flag):
    (tmp_path / "file").touch()
    asked = options(tmp_path, **{flag: tmp_path / "file" / "r.png"})
    with pytest.raises(UserError, match=f"--{flag} .*cannot be written"):
        cli.publish(asked, {"x": 1}, "a table", Figure)
    assert "a table" in capsys.readouterr().out
    assert asked.json.exists() == (flag == "png")
