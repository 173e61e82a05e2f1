"""Stop signals, while Python runs and while a compiled program does."""

import importlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from train.errors import guarded
from train.processes.signals import SAME_STOP, StopRequest

# In one call of XLA, for minutes: no handler of Python's runs meanwhile.
BUSY = """
import sys, jax
from train.errors import guarded
from train.processes.signals import StopRequest

def run():
    body = lambda i, x: jax.numpy.sin(x)
    long = jax.jit(lambda x: jax.lax.fori_loop(0, 2**31 - 1, body, x))
    long.lower(jax.numpy.ones(64)).compile()
    with StopRequest():
        print("busy", flush=True)
        jax.block_until_ready(long(jax.numpy.ones(64)))
    return 0

sys.exit(guarded(run))
"""


@pytest.fixture(params=["", "trap '' INT; "], ids=["usual", "background"])
def busy(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """That program, running; once as a shell starts it in the background."""
    process = subprocess.Popen(
        ["sh", "-c", f'{request.param}exec "$0" -c "$1"', sys.executable, BUSY],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(__file__).parents[3],
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "busy\n"
        time.sleep(0.5)  # inside the program
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.long
def test_the_second_interrupt_ends_a_compiled_loop(busy):
    process = busy
    assert process.stderr is not None
    process.send_signal(signal.SIGINT)
    said = process.stderr.readline()
    assert said == "SIGINT: stopping after this chunk; Ctrl-C again stops at once\n"
    # Its echo, which `uv run` and `timeout` pass on, is the same stop.
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=2 * SAME_STOP + 2)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    said = "stopped at once; existing checkpoints are kept\n"
    assert process.communicate()[1] == said


@pytest.mark.long
@pytest.mark.parametrize("busy", [""], indirect=True)
def test_other_signals_wait_for_the_chunk(busy):
    process = busy
    assert process.stderr is not None
    process.send_signal(signal.SIGTERM)
    assert process.stderr.readline() == "SIGTERM: stopping after this chunk\n"
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=3)


def test_a_terminal_that_closes_is_a_stop_signal_and_nohup_is_not():
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.agreed() and stop.exit_code == 143
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.agreed() and stop.exit_code == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_interrupt_handled_late_is_not_a_second_one(monkeypatch):
    """It came while no Python ran, and the thread has answered it long ago."""
    now = iter([0.0, 30.0, 30.5, 32.0])
    monkeypatch.setattr("train.processes.signals.time.monotonic", lambda: next(now))
    stop = StopRequest()
    assert not stop._is_second_request()  # on the thread, at once
    stop._note(signal.SIGINT, None)  # on the main thread, later
    assert stop.number == signal.SIGINT
    with pytest.raises(KeyboardInterrupt, match="existing checkpoints are kept"):
        stop._note(signal.SIGINT, None)


def test_a_ctrl_c_that_ends_a_program_comes_twice():
    """Before there is anything to stop: one line, the code of Ctrl-C, no traceback."""
    code = (
        "import signal, sys, time\n"
        # Shells have it ignored in what they start in the background.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from train.errors import guarded\n"
        "def run():\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "code = guarded(run, 'stopped')\n"
        "time.sleep(1)\n"
        "sys.exit(code)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(__file__).parents[3],
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "stopped\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert process.communicate()[1] == ""


def test_a_ctrl_c_while_a_library_loads_is_one(capsys):
    """jaxlib turns it into an ImportError."""

    def run() -> int:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as stop:
            raise ImportError("while initializing the extension") from stop

    before = signal.getsignal(signal.SIGINT)
    try:
        assert guarded(run, "stopped") == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "stopped\n"
    with pytest.raises(ImportError):
        guarded(lambda: bool(importlib.import_module("no_such_module")), "stopped")
