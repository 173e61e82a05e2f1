"""Make the runs of a suite, some side by side, each in processes of its own.

Any number of processes may work on one folder. Each takes a run only after it has
claimed it, and a core of the machine in the same way; both claims are handed to the
processes of the run, so that they hold until those have ended.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.suite.declare import Cell, Suite
from benchmarks.suite.place import TRIES, Claim, Place
from train.errors import tell
from train.processes.signals import StopRequest
from train.run_dir.lock import is_locked

_LOOK = 0.2  # seconds between two looks at the children
_SEARCH = 5.0  # seconds between two searches for a run that became free
_PATIENCE = 300.0  # seconds a run has for its last checkpoint
TRAIN, EVALUATE = "train.main", "train.evaluate"
SENSITIVITY = "benchmarks.sensitivity"
"""The modules that make a run."""
STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM)
"""Exit codes of a program that was asked to end; negative where its own handlers were
not there yet."""


class Tally(NamedTuple):
    """What became of the runs that one call of `work` took."""

    finished: list[Cell]
    failed: list[Cell]
    exit_code: int
    """130 or 143 after a stop signal, else 1 if a run failed, else 0."""


class _Job:
    """One run in the making: its programs one after another."""

    def __init__(
        self, cell: Cell, place: Place, claims: Sequence[Claim], core: int | None
    ) -> None:
        self.cell, self.place, self.core = cell, place, core
        self._claims = claims
        self.began = time.monotonic()
        self.child: subprocess.Popen[bytes] | None = None

    def start(self, words: Sequence[str]) -> None:
        """The next program, on the job's core."""
        with self.place.beside("log").open("ab") as log, _pinned(self.core):
            self.child = subprocess.Popen(
                [sys.executable, "-m", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[claim.descriptor for claim in self._claims],
                # Of a Ctrl-C on the terminal the suite alone learns, and passes it on.
                start_new_session=True,
            )

    def close(self) -> None:
        """Give back what was claimed."""
        for claim in self._claims:
            claim.drop()


class Runner:
    """One process's work on a suite.

    Args:
        folder: of the suite's runs.
        jobs: runs side by side, of this process.
        pin: give every run a core of its own, which no other run of this folder on
            this machine has.
        done: runs that need not be made, because their results are known.
        on_finished: called after each run.
    """

    def __init__(
        self,
        suite: Suite,
        folder: Path,
        *,
        jobs: int,
        pin: bool,
        done: Callable[[Cell], bool] = lambda _: False,
        on_finished: Callable[[Cell], None] = lambda _: None,
    ) -> None:
        self._suite, self._folder = suite, folder
        self._jobs, self._pin = jobs, pin
        self._done, self._on_finished = done, on_finished
        self._started = time.time()
        self._running: list[_Job] = []
        self._settled: set[Cell] = set()
        """Tried by this process, or nothing is left to do for it."""
        self._finished: list[Cell] = []
        self._failed: list[Cell] = []

    def work(self) -> Tally:
        """Make all runs that nobody else makes; returns when none is left to take.

        At a stop signal the runs are asked to stop, which saves a checkpoint of each.
        """
        with StopRequest() as stop:
            stop.doing = "the checkpoints of the runs"
            stop.left = lambda: "the runs were killed; checkpoints are kept"
            try:
                searched = -_SEARCH
                while not stop.number:
                    ended = self._look()
                    if ended or time.monotonic() - searched > _SEARCH:
                        left = self._fill()
                        searched = time.monotonic()
                        if not self._running and not left:
                            break
                    time.sleep(_LOOK)
                self._stop_children()
            finally:
                self._kill_children()
        code = 130 if stop.number == signal.SIGINT else 143 if stop.number else 0
        return Tally(self._finished, self._failed, code or int(bool(self._failed)))

    def _fill(self) -> bool:
        """Start runs as long as there are some to take; whether one lacks a core."""
        waits = False
        for cell in self._suite.cells():
            if len(self._running) >= self._jobs:
                break
            if cell in self._settled or self._done(cell):
                continue
            place = Place.of(self._folder, cell)
            if (source := self._missing_source(cell, place)) is not None:
                waits |= self._wait_for(source, cell)
                continue
            if is_locked(place.run_dir / "lock"):  # somebody trains there by hand
                continue
            claim = Claim.take(place.beside("claim"))
            if claim is None:
                continue
            words = self._next_program(cell, place)
            core, core_claim = self._core() if words else (None, None)
            if words is None:
                self._settled.add(cell)
            if words is None or (self._pin and core_claim is None):
                claim.drop()
                if words is not None:
                    return True
                continue
            self._settled.add(cell)
            job = _Job(cell, place, [c for c in (claim, core_claim) if c], core)
            job.start(words)
            self._running.append(job)
            where = "" if core is None else f" on core {core}"
            goes_on = f" from step {step:,}" if (step := place.step()) else ""
            tell(f"started      {cell}{where}{goes_on}", sys.stdout)
        return waits

    def _missing_source(self, cell: Cell, place: Place) -> Cell | None:
        """The run of which this one is a fork, if it has not come so far yet."""
        source = self._suite.source(cell)
        if source is None or place.forked_at() is not None:
            return None
        at = self._suite.forks[cell.arm].at
        there = Place.of(self._folder, source).fork_step(at) is not None
        return None if there else source

    def _wait_for(self, source: Cell, cell: Cell) -> bool:
        """Whether a run is still made whose checkpoint a fork needs."""
        made_here = any(job.cell == source for job in self._running)
        if made_here or Place.of(self._folder, source).in_use():
            return True
        if source not in self._settled and not self._done(source):
            return True  # it is this process's turn to make it
        self._settled.add(cell)
        tell(
            f"left out     {cell}: {source} has no checkpoint here to fork from",
            sys.stderr,
        )
        return False

    def _next_program(self, cell: Cell, place: Place) -> list[str] | None:
        """Module and flags of what a claimed run needs next; None for nothing.

        A run with other settings is taken too: `train.main` refuses it, and says why.
        """
        suite, words = self._suite, self._suite.words(cell)
        failures = place.failures(words)
        recent = any(each["time"] > self._started for each in failures)
        if recent or len(failures) >= TRIES:
            return None
        if not place.other_settings(suite, cell):
            if place.finished(suite, cell):
                return None
            if place.trained(suite.config(cell)):
                return self._measurement(place)
        return [TRAIN, *words, *self._fork(cell, place), "--logdir", str(place.run_dir)]

    def _fork(self, cell: Cell, place: Place) -> list[str]:
        """Flags of a fork: the run and the step that it goes on from."""
        source = self._suite.source(cell)
        if source is None:
            return []
        there = Place.of(self._folder, source)
        at = place.forked_at() or there.fork_step(self._suite.forks[cell.arm].at)
        return ["--fork", str(there.run_dir), "--at", str(at)]

    def _measurement(self, place: Place) -> list[str]:
        """What is still to be known of a trained run."""
        episodes = self._suite.final_episodes
        if episodes and place.evaluated(episodes) is None:
            words = ["--run", str(place.run_dir), "--episodes", str(episodes)]
            return [EVALUATE, *words, "--json", str(place.beside("json"))]
        out = str(place.beside("sensitivity.json"))
        return [SENSITIVITY, str(place.run_dir), "--json", out]

    def _look(self) -> bool:
        """See which programs have ended, and go on; whether a run has."""
        ended = False
        for job in list(self._running):
            code = None if job.child is None else job.child.poll()
            if code is None:
                continue
            following = None if code else self._next_program(job.cell, job.place)
            if following is not None:
                job.start(following)
                continue
            self._end(job, code)
            ended = True
        return ended

    def _end(self, job: _Job, code: int) -> None:
        self._running.remove(job)
        step = job.place.step()
        minutes = (time.monotonic() - job.began) / 60
        if code in STOPPED:
            tell(f"stopped      {job.cell} at step {step:,}", sys.stdout)
        elif code:
            words = self._suite.words(job.cell)
            says = job.place.note_failure(words, code)["says"]
            self._failed.append(job.cell)
            tell(f"failed       {job.cell}: exit status {code}: {says}", sys.stderr)
        else:
            self._finished.append(job.cell)
            tell(
                f"finished     {job.cell} at step {step:,}, {minutes:.1f} minutes",
                sys.stdout,
            )
        job.close()
        if not code:
            self._on_finished(job.cell)

    def _core(self) -> tuple[int | None, Claim | None]:
        """A core that no run of this folder has on this machine."""
        if not self._pin:
            return None, None
        for core in usable():
            path = self._folder / ".cores" / f"{socket.gethostname()}-{core}"
            claim = Claim.take(path)
            if claim is not None:
                return core, claim
        return None, None

    def _stop_children(self) -> None:
        """Ask all runs to stop, and wait until they have saved."""
        for job in self._running:
            if job.child is not None:
                job.child.terminate()
        deadline = time.monotonic() + _PATIENCE
        while self._running and time.monotonic() < deadline:
            for job in list(self._running):
                code = None if job.child is None else job.child.poll()
                if code is not None:
                    self._end(job, code)
            time.sleep(_LOOK)

    def _kill_children(self) -> None:
        """Whatever ended this process's work, it leaves no run behind."""
        for job in self._running:
            if job.child is not None and job.child.poll() is None:
                job.child.kill()
                job.child.wait()
            job.close()
        self._running.clear()


def usable() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


@contextlib.contextmanager
def _pinned(core: int | None) -> Iterator[None]:
    """Start children on one core: they inherit this thread's."""
    if core is None:
        yield
        return
    usual = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, usual)
