"""Programs that are compiled in a thread."""

import threading

import pytest

from train.placement import compiling
from train.placement.compiling import Compiling
from train.placement.placement import Program


class Slow(Program):
    """A program whose compilation ends when `may_end` is set."""

    def __init__(self):
        self.begun, self.may_end, self.ended = (threading.Event() for _ in range(3))

    def prepare(self, *args):
        self.begun.set()
        assert self.may_end.wait(60)
        self.ended.set()


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(compiling, "usable_cores", lambda: 2)


def test_they_are_compiled_in_turn_beside_the_caller():
    work, (first, second) = Compiling(), (Slow(), Slow())
    for program in (first, second):
        work.begin(program)
    assert first.begun.wait(60) and not second.begun.is_set()
    first.may_end.set()
    second.may_end.set()
    work.finish(second)
    assert first.ended.is_set() and second.ended.is_set()
    assert not work.stop()
    work.wait()


def test_a_stop_waits_for_the_one_at_work_and_begins_no_other():
    """A run that has nothing left to do stops while its first program is compiled."""
    work, (first, second) = Compiling(), (Slow(), Slow())
    for program in (first, second):
        work.begin(program)
    assert first.begun.wait(60)
    assert work.stop(), "the first is being compiled"
    waiting = threading.Thread(target=work.wait, daemon=True)
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive() and not first.ended.is_set()
    first.may_end.set()
    waiting.join(60)
    assert not waiting.is_alive() and first.ended.is_set()
    assert not second.begun.is_set()


def test_a_mistake_of_the_compiler_is_the_callers(monkeypatch):
    work, program = Compiling(), Slow()
    monkeypatch.setattr(program, "prepare", lambda: 1 / 0)
    work.begin(program)
    with pytest.raises(ZeroDivisionError):
        work.finish(program)
    assert not work.stop()


def test_on_one_core_a_program_is_compiled_when_it_is_needed(monkeypatch):
    monkeypatch.setattr(compiling, "usable_cores", lambda: 1)
    work, program = Compiling(), Slow()
    program.may_end.set()
    work.begin(program)
    assert not program.begun.is_set()
    work.finish(program)
    assert program.ended.is_set() and not work.stop()
