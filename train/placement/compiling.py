"""Programs that are compiled while something else goes on."""

from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import jax

from train.placement.placement import Program
from train.processes.cores import usable_cores


class Compiling:
    """Compiles programs one after another in a thread, beside the caller's own work.

    XLA compiles without Python's lock. On a single core, and with several processes,
    which must all compile in the same order, each program is compiled when it is
    finished instead.
    """

    def __init__(self) -> None:
        self._begun: dict[Program, Future[None]] = {}
        self._pool = None
        if jax.process_count() == 1 and usable_cores() > 1:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="compiling")

    def begin(self, program: Program, *args: Any) -> None:
        """Compile a program for arguments like these, after those begun before it."""
        if self._pool:
            self._begun[program] = self._pool.submit(program.prepare, *args)

    def finish(self, program: Program, *args: Any) -> None:
        """Wait until a program is compiled; compile it if nobody began to."""
        if program in self._begun:
            self._begun[program].result()
        else:
            program.prepare(*args)

    def stop(self) -> bool:
        """Begin no further program; whether one is being compiled."""
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)
        return not all(x.done() for x in self._begun.values())

    def wait(self) -> None:
        """Wait for the program that is being compiled: nothing can interrupt it."""
        # Nobody reports the end of what was canceled: `wait` would wait for ever.
        wait(x for x in self._begun.values() if not x.cancelled())
