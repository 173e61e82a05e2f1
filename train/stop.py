"""Stopping in good order, and stopping at once."""

import os
import signal
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

from train import cluster
from train.errors import tell

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
# Time that a second Ctrl-C leaves the main thread to end by itself.
_PATIENCE = 2.0  # seconds


class StopRequest:
    """Remembers the first stop signal; a second Ctrl-C stops at once.

    While a chunk is computed or compiled the main thread runs no Python, and so no
    signal handler, for minutes. The system's own handler tells a thread, which
    answers the first signal, and at the second Ctrl-C ends the process: whenever that
    is, the last checkpoint stands. SIGHUP stays ignored where it was (nohup); a shell
    has its background jobs ignore SIGINT too, which is then meant for others, but one
    that is sent to this process is heard.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.say: Callable[[str], None] = lambda line: tell(line, sys.stderr)
        """Takes a line for the user, on any thread."""
        self._previous: dict[int, Any] = {}
        self._over = threading.Event()

    def __enter__(self) -> "StopRequest":
        for number in STOP_SIGNALS:
            ignored = signal.getsignal(number) is signal.SIG_IGN
            if ignored and number == signal.SIGHUP:  # nohup
                continue
            self._previous[number] = signal.signal(number, self._note)
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._woke = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        threading.Thread(target=self._answer, args=(reading,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        signal.set_wakeup_fd(self._woke)
        os.close(self._writing)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def agreed(self) -> bool:
        """Whether any process was asked to stop; every process must ask."""
        self.number = cluster.largest(self.number or 0) or None
        return self.number is not None

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after any other stop signal, 0 without one."""
        if self.number is None:
            return 0
        return 130 if self.number == signal.SIGINT else 143

    def _note(self, number: int, _: types.FrameType | None) -> None:
        if self.number == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.number = number

    def _answer(self, reading: int) -> None:
        """Runs on the thread, until the other end of the pipe is closed."""
        first: int | None = None
        with open(reading, "rb", buffering=0) as signals:
            while arrived := signals.read(1):
                number = arrived[0]
                if number not in self._previous or self._over.is_set():
                    continue
                if first is None:
                    first = number
                    line = f"{signal.Signals(number).name}: stopping after this chunk"
                    if number == signal.SIGINT:
                        line += "; Ctrl-C again stops at once"
                    self.say(line)
                elif first == signal.SIGINT == number and not self._over.wait(
                    _PATIENCE
                ):
                    tell("stopped at once; the last checkpoint stands", sys.stderr)
                    os._exit(130)
