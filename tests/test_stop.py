"""Stop signals, while Python runs and while a compiled program does."""

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from train.stop import StopRequest

# In one call of XLA, for minutes: no handler of Python's runs meanwhile.
BUSY = """
import sys, jax
from train.errors import guarded
from train.stop import StopRequest

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
        cwd=pathlib.Path(__file__).parent.parent,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "busy\n"
        time.sleep(0.5)  # inside the program
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_second_interrupt_ends_a_compiled_loop(busy):
    process = busy
    assert process.stderr is not None
    process.send_signal(signal.SIGINT)
    said = process.stderr.readline()
    assert said == "SIGINT: stopping after this chunk; Ctrl-C again stops at once\n"
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert process.communicate()[1] == "stopped at once; the last checkpoint stands\n"


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
