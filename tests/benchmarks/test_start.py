"""The start of runs, timed."""

import json
import sys

import pytest

from benchmarks.throughput import __main__ as throughput
from benchmarks.throughput import start

RUN = """
import os, pathlib, sys, time
cache = pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
seconds = 3 if cache.exists() else 40
cache.mkdir(exist_ok=True)
assert sys.argv[-2] == "--logdir"
print("device CPU")
print("compiling acting ... ", end="")
print(f"{seconds - 2}.5 s")
print("0%  2,048/500,000 steps")
print("first updates ... 0.5 s")
if "--ends" in sys.argv:
    sys.exit("error: no more disk")
print(f"first updates done {seconds} s after the start", flush=True)
time.sleep(60)
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    path = tmp_path / "run.py"
    path.write_text(RUN)
    monkeypatch.setattr(start, "COMMAND", (sys.executable, "-u", str(path)))


def test_every_run_is_started_with_an_empty_and_a_filled_cache(fake, tmp_path, capsys):
    out, png = tmp_path / "start.json", tmp_path / "start.png"
    flags = ["--start", "--run", "--env a", "--run", "--env b --seed 1"]
    code = throughput.main([*flags, "--rounds", "2", f"--json={out}", f"--png={png}"])
    assert code == 0 and png.exists()
    rows = json.loads(out.read_text())["starts"]
    assert [(row["run"], row["cached"]) for row in rows] == 2 * [
        ("--env a", False),
        ("--env a", True),
        ("--env b --seed 1", False),
        ("--env b --seed 1", True),
    ]
    assert [row["seconds"] for row in rows] == 4 * [40, 3]
    assert rows[0]["phases"] == {
        "other": 1.0,
        "compiling acting": 38.5,
        "first updates": 0.5,
    }
    for row in rows:
        assert sum(row["phases"].values()) == pytest.approx(row["seconds"])
        used = row["processor_seconds"]
        assert used is None or 0 <= used < 60
    assert "compiling acting 38" in capsys.readouterr().out


def test_a_run_that_ends_before_is_said(fake, capsys):
    assert throughput.main(["--start", "--run=--ends"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "error: no more disk" in error


def test_flags_of_a_run_need_the_start(capsys):
    assert throughput.main(["--run", "--env walker"]) == 2
    assert "--run: only with --start" in capsys.readouterr().err
