"""One training step timed beside other programs'."""

import json
import sys

import jax.numpy as jnp
import pytest

from benchmarks.measure.timing import Cost
from benchmarks.overhead.steps import Program
from benchmarks.throughput import __main__ as throughput
from benchmarks.throughput import beside
from train.errors import UserError

PEER = """
import sys
print("compiling", flush=True)
print("ready", flush=True)
for _ in sys.stdin:
    print("60.0 120.0", flush=True)
"""


def command(tmp_path, text):
    path = tmp_path / "peer.py"
    path.write_text(text)
    return f"{sys.executable} {path}"


def test_ratios_are_of_the_same_round():
    costs = {
        beside.OURS: [Cost(1, 2), Cost(10, 20), Cost(2, 4)],
        "theirs": [Cost(2, 2), Cost(20, 20), Cost(4, 4)],
    }
    ours, theirs = beside.rows(costs)
    assert ours.wall_ratio == (1, 1, 1) and ours.wall.median == 2
    assert theirs.wall_ratio == (2, 2, 2) and theirs.processor_ratio == (1, 1, 1)
    assert theirs.wall.median == 4 and theirs.processor.median == 4


def test_every_round_has_every_program_and_the_first_does_not_count():
    made = []

    def program(name):
        return lambda: made.append(name) or Cost(len(made), 0)

    costs = beside.take_turns({x: program(x) for x in "abc"}, rounds=4)
    assert [len(found) for found in costs.values()] == [4, 4, 4]
    rounds = [made[i : i + 3] for i in range(0, len(made), 3)]
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1
    assert min(cost.wall for found in costs.values() for cost in found) == 4


class Quick:
    """A step that takes no time to compile, in place of an update's."""

    def __init__(self, config):
        assert config.size == "1m"

    def compile(self, penalty):
        return Program(lambda: jnp.zeros(()), 0.0, None, None, "")


def test_a_peer_is_timed_beside_ours(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(beside, "Bench", Quick)
    out, png = tmp_path / "out.json", tmp_path / "out.png"
    given = ["--size", "1m", "--quick", "--json", str(out), "--png", str(png)]
    peer = f"theirs={command(tmp_path, PEER)}"
    assert throughput.main([*given, "--beside", peer]) == 0
    result = json.loads(out.read_text())
    names = [row["name"] for row in result["rows"]]
    assert names == [beside.OURS, beside.PENALIZED, "theirs"]
    ours, _, theirs = result["rows"]
    assert theirs["wall"]["median"] == 60 and theirs["processor"]["median"] == 120
    assert theirs["wall_ratio"]["low"] > 10 > ours["wall_ratio"]["high"]
    assert result["size"] == "1m" and png.stat().st_size > 1000
    assert "theirs: compiling" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("print('ready')", "ended with exit code 0"),
        ("raise SystemExit(3)", "ended with exit code 3"),
        ("print('ready'); input(); print('fast')", "printed 'fast'; expected the wall"),
    ],
)
def test_a_peer_that_fails_is_named(tmp_path, text, says):
    peer = beside.Peer("theirs", command(tmp_path, text))
    with pytest.raises(UserError, match=f"--beside theirs: .*{says}"):
        peer.wait()
        peer.step()
    peer.close()


def test_bad_words_are_refused(capsys):
    with pytest.raises(SystemExit) as leaving:
        throughput.main(["--beside", "python peer.py"])
    assert leaving.value.code == 2
    assert "expected NAME=COMMAND" in capsys.readouterr().err
    assert throughput.main(["--quick", "--beside", "x=/no/such/program"]) == 2
    assert "--beside x: /no/such/program" in capsys.readouterr().err
    assert throughput.main(["--quick", "--beside", "ours=true"]) == 2
    assert "names must differ" in capsys.readouterr().err
