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
    assert said[0] == "a table" and said[1].startswith("--quick: a quick check")
    assert said[2:] == [f"wrote {asked.json}", f"drew {asked.png}"]
    assert (
        json.loads(asked.json.read_text())["what"] == "a quick check, not a measurement"
    )
    assert asked.png.read_bytes().startswith(b"\x89PNG")


def test_a_page_is_written_where_it_is_asked_for(tmp_path, capsys):
    asked = options(tmp_path, html=tmp_path / "c" / "r.html", json=None, png=None)
    cli.publish(asked, {"x": 1}, "a table", Figure, page=lambda: "<p>ä")
    assert asked.html.read_bytes() == "<p>ä".encode()
    assert f"wrote {asked.html}" in capsys.readouterr().out
    asked.html = tmp_path
    with pytest.raises(UserError, match=r"--html .*cannot be written"):
        cli.publish(asked, {"x": 1}, "a table", Figure, page=lambda: "")
    asked.html = None
    never = lambda: pytest.fail("made a page that nobody asked for")
    cli.publish(asked, {"x": 1}, "a table", Figure, page=never)


@pytest.mark.parametrize("flag", ["json", "png"])
def test_a_file_that_cannot_be_written_loses_nothing(tmp_path, capsys, flag):
    (tmp_path / "file").touch()
    asked = options(tmp_path, **{flag: tmp_path / "file" / "r.png"})
    with pytest.raises(UserError, match=f"--{flag} .*cannot be written"):
        cli.publish(asked, {"x": 1}, "a table", Figure)
    assert "a table" in capsys.readouterr().out
    assert asked.json.exists() == (flag == "png")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--rounds x", "--rounds: x: allowed: a number > 0"),
        ("--rounds 0", "--rounds: 0: allowed"),
        ("--rounds -2", "--rounds: -2: allowed"),
        ("--rounds 1.5", "--rounds: 1.5: allowed: an integer >= 1"),
        ("--ronds 2", "unrecognized arguments: --ronds 2"),
        ("--kind z", "--kind: invalid choice"),
    ],
)
def test_a_mistake_is_answered_in_one_line(capsys, words, said):
    parser = cli.Parser("op", description="x")
    parser.add_argument("--rounds", type=cli.count)
    parser.add_argument("--kind", choices=("a", "b"))
    parser.add_outputs(quick="less")
    assert parser.parse_args(["--rounds", "1e2"]).rounds == 100
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(words.split())
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.count("\n") == 1
    assert error.startswith(f"error: {said}")
