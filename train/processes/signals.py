"""Graceful shutdown at a stop signal; an immediate end at a second Ctrl-C."""

import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable
from typing import Any

from train.errors import tell
from train.processes import coordination

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
SAME_STOP = 1.0
"""Seconds after the first Ctrl-C in which another one counts as the same key press.

One key press reaches a child several times: from the terminal, and once more from each
of `uv run`, `timeout` and some shells above it.
"""
# Time that a second Ctrl-C leaves the main thread to end by itself.
_PATIENCE = 2.0  # seconds


class StopRequest:
    """Remembers the first stop signal; a second Ctrl-C stops at once.

    While a program is compiled or computed the main thread runs no Python, and so no
    signal handler, for minutes. The system's own handler informs a thread. The thread
    answers the first signal, and at the second Ctrl-C it ends the process: whenever
    that is, the newest checkpoint is intact. SIGHUP stays ignored where it was
    (`nohup`); a shell has its background jobs ignore SIGINT too, meant for others, but
    one sent to this process is handled.

    Attributes:
        number: the first stop signal; None before one.
        doing: what is finished before the run stops, for the answer to the signal.
        say: takes a line for the user, on any thread.
        left: words on what is saved, for an end at once.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.doing = "this chunk"
        self.say: Callable[[str], None] = lambda line: tell(line, sys.stderr)
        self.left: Callable[[], str] = lambda: "existing checkpoints are kept"
        self._interrupted: float | None = None
        self._called = False  # the handler, for a Ctrl-C
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
        self.number = coordination.largest(self.number or 0) or None
        return self.number is not None

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after any other stop signal, 0 without one."""
        if self.number is None:
            return 0
        return 130 if self.number == signal.SIGINT else 143

    def _note(self, number: int, _: types.FrameType | None) -> None:
        """The handler: on the main thread, when that runs Python again."""
        if number == signal.SIGINT:
            # Called once for all that came while no Python ran: that may be late, and
            # is not a second request then.
            called_before, self._called = self._called, True
            if self._is_second_request() and called_before:
                raise KeyboardInterrupt(self._stopped_line())
        if self.number is None:
            self.number = number

    def _is_second_request(self) -> bool:
        """Whether this Ctrl-C comes more than SAME_STOP s after the first."""
        now = time.monotonic()
        if self._interrupted is None:
            self._interrupted = now
        return now - self._interrupted > SAME_STOP

    def _stopped_line(self) -> str:
        return f"stopped at once; {self.left()}"

    def _answer(self, reading: int) -> None:
        """Runs on the thread, until the other end of the pipe is closed."""
        first: int | None = None
        with open(reading, "rb", buffering=0) as signals:
            while arrived := signals.read(1):
                number = arrived[0]
                if number not in self._previous or self._over.is_set():
                    continue
                again = number == signal.SIGINT and self._is_second_request()
                if first is None:
                    first = number
                    line = f"{signal.Signals(number).name}: stopping after {self.doing}"
                    if number == signal.SIGINT:
                        line += "; Ctrl-C again stops at once"
                    self.say(line)
                elif again and not self._over.wait(_PATIENCE):
                    tell(self._stopped_line(), sys.stderr)
                    os._exit(130)
