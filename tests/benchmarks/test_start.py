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
if os.environ["JAX_LOG_COMPILES"] == "1":
    log = lambda line: print("WARNING: Finished " + line, file=sys.stderr, flush=True)
    log("tracing chunk for jit in 1.250 sec")
    log("tracing step for jit in 1.000 sec")
    log("jaxpr to MLIR module conversion jit(chunk) in 0.500 sec")
    log(f"XLA compilation of jit(chunk) in {seconds / 2} sec")
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
    chunk = {"traced": 1.25, "lowered": 0.5, "compiled": 20.0}
    assert rows[0]["programs"] == {"chunk": chunk}
    assert rows[1]["programs"] == {"chunk": chunk | {"compiled": 1.5}}
    for row in rows:
        assert sum(row["phases"].values()) == pytest.approx(row["seconds"])
        used = row["processor_seconds"]
        assert used is None or 0 <= used < 60
    said = capsys.readouterr().out
    assert "compiling acting 38" in said
    table = [line.split() for line in said.splitlines()]
    assert ["--env", "a", "empty", "chunk", "1.2", "0.5", "20.0"] in table


def test_a_run_that_ends_before_is_said(fake, capsys):
    assert throughput.main(["--start", "--run=--ends"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "error: no more disk" in error


def test_flags_of_a_run_need_the_start(capsys):
    assert throughput.main(["--run", "--env walker"]) == 2
    assert "--run: only with --start" in capsys.readouterr().err
