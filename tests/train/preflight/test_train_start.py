"""The first minutes of a run: what is said, and what a stop signal in them leaves."""

import re
import signal
import threading
import time
from typing import Any

import pytest
from toy_run import Altered, Toy, assert_same_bits, log_lines, shared

from train import loop
from train.checkpoint.checkpointer import Checkpointer
from train.placement import compiling as beside
from train.placement.placement import Program

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("quick_compiles")]


@pytest.fixture(scope="module")
def toy() -> Toy:
    return shared()


class Interrupting:
    """A program during whose compilation, or call, a stop signal arrives."""

    def __init__(self, program: Program, *, compiling: bool) -> None:
        self._program, self._compiling = program, compiling

    def prepare(self, *args: Any) -> None:
        if self._compiling:
            self._stop()
        self._program.prepare(*args)

    def __call__(self, *args: Any) -> Any:
        if not self._compiling:
            self._stop()
        return self._program(*args)

    def _stop(self) -> None:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.2)  # the answer comes from a thread


class Meeting:
    """A program that is compiled while another one, of another thread, is."""

    def __init__(self, program: Any, barrier: threading.Barrier) -> None:
        self._program, self._barrier = program, barrier

    def prepare(self, *args: Any) -> None:
        self._barrier.wait(60)
        self._program.prepare(*args)
        self._barrier.wait(60)

    def __call__(self, *args: Any) -> Any:
        return self._program(*args)


def compiled(toy: Toy) -> list[int]:
    """How often the programs of training and of evaluation have been compiled."""
    programs = toy.programs.chunk, toy.programs.evaluate
    return [program.jitted._cache_size() for program in programs]


@pytest.mark.parametrize(
    ("during", "compiling", "cores", "lines", "says"),
    [
        ("init", True, 2, 0, "compiling acting"),
        ("prefill", True, 2, 0, "compiling acting"),
        ("prefill", False, 2, 0, "filling the replay buffer"),
        # Beside acting where there is a second core, otherwise after it.
        ("chunk", True, 2, 0, "compiling acting"),
        ("chunk", True, 1, 0, "compiling the update"),
        ("chunk", False, 2, 2, "first updates"),
        ("evaluate", True, 1, 2, "compiling the evaluation"),
        ("evaluate", False, 2, 2, "evaluating the untrained agent"),
    ],
)
def test_a_stop_before_the_first_checkpoint_saves_one(
    toy, whole, tmp_path, capsys, monkeypatch, during, compiling, cores, lines, says
):
    """In every phase of the start; and the run goes on as if it had never stopped."""
    # By the unbroken run; and by other modules, whose options of the compiler differ.
    before = compiled(toy)
    monkeypatch.setattr(beside, "usable_cores", lambda: cores)
    altered = Altered(toy.programs)
    program = Interrupting(getattr(toy.programs, during), compiling=compiling)
    setattr(altered, during, program)
    if during == "chunk" and says == "compiling acting":
        both = threading.Barrier(2)
        for name, inner in {"chunk": program, "prefill": toy.programs.prefill}.items():
            setattr(altered, name, Meeting(inner, both))
    run, code = toy.train(tmp_path, altered)
    out = capsys.readouterr().out
    assert code == 143 and f"SIGTERM: stopping after {says}\n" in out
    assert len(log_lines(tmp_path)) == lines
    saved = Checkpointer(tmp_path).steps()
    if says == "compiling acting":
        assert saved == []
        assert "stopped by SIGTERM before the first decision: there was nothing" in out
    else:
        assert saved == [loop.env_steps(toy.config, run)]
        filled = "before the first update, with the replay buffer filled"
        assert (filled in out) == (lines == 0)
        assert out.endswith("; the same command resumes\n")
    run, code = toy.train(tmp_path)
    assert code == 0
    assert_same_bits(run, whole[1])
    assert log_lines(tmp_path) == whole[2]
    assert compiled(toy) == before


def test_the_phases_of_the_start_and_their_seconds(whole, toy, tmp_path, capsys):
    toy.train(tmp_path)
    said = capsys.readouterr().out.splitlines()
    phases = [line.split(" ... ")[0] for line in said if " ... " in line]
    assert phases == [
        "compiling acting",
        "filling the replay buffer",
        "compiling the update",
        "first updates",
        "compiling the evaluation",
        "evaluating the untrained agent",
    ]
    assert all(re.search(r" \.\.\. [0-9.]+ s$", x) for x in said if " ... " in x)
    first, second, *_ = (line for line in said if "% " in line)
    step = whole[2][0]["step"]
    assert not re.search("steps/s|eval", first)
    assert "left" in second and f"(step {step})" in second
