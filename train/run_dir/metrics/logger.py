"""The log of a run.

    RUN/metrics.jsonl     the record: one line for each call of `Logger.write`
    RUN/timing.jsonl      wall-clock speed, apart because no two runs agree on it
    RUN/starts.jsonl      date, commit, versions, machine and command of every start
    RUN/tensorboard/      the same for TensorBoard
    RUN/openloop/         of runs on images: what the model expected to see, as GIF

Of several agents each has its own `RUN/seed_0/`, `RUN/seed_1/`, ... of these (with
`--sweep`, `RUN/seed_0,lambda0=0.1/`). Every
line has a `step`, in environment steps of one agent; so has the horizontal axis of
TensorBoard. Names are paths:

    train/loss/dyn        mean over the updates since the last line; nats for KL
                          divergences and log-likelihoods
    train/penalty/...     the penalty itself, before its coefficient train/lambda/...
    episode/return        mean return (sum of rewards) of training episodes that ended
    eval/return_mean      mean return over evaluation episodes (--eval-policy)
    eval/return_mean_...  the same with or without the latent error, whichever of them
                          eval/return_mean is not (--eval-latent-error)
    eval/cut_off          those of them that --eval-max-decisions ended

`metrics.jsonl` holds nothing of the clock or the machine: on a CPU, a run that was
interrupted and resumed leaves the same bytes as one that was not. For that, write
everything that belongs to a step before saving that step's checkpoint.
"""

import contextlib
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import rich.console

from train.run_dir.metrics.jsonl import JsonLines
from train.run_dir.metrics.progress import Display, SpeedMeter
from train.run_dir.metrics.tensorboard import TensorBoard as TensorBoard


class Sink(Protocol):
    """A further place for metrics; it may fail without harm to the run."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of one step."""
        ...

    def close(self) -> None:
        """Finish."""
        ...


@runtime_checkable
class Films(Protocol):
    """A sink that takes films as well."""

    def write_gif(self, step: int, name: str, gif: bytes) -> None:
        """Take a film of one step."""
        ...


# Makes the sink of one agent from its directory and the step it goes on from.
SinkFactory = Callable[[pathlib.Path, int | None], Sink]


class Logger:
    """Writes metrics to files and shows progress.

    Args:
        run_dir: run directory.
        total_steps: environment steps of the run.
        agents: names of the agents trained side by side; with more than one, each has
            a directory of its name, `write` takes arrays of shape `[agents]` beside
            plain numbers, and the console shows means.
        restored_step: step of the checkpoint the run goes on from; what was logged
            later is removed. None for a new run.
        console: where progress is shown; standard output by default, False for
            nowhere.
        sinks: makers of further sinks.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        *,
        total_steps: int,
        agents: Sequence[str] = ("seed_0",),
        restored_step: int | None = None,
        console: rich.console.Console | bool = True,
        sinks: Sequence[SinkFactory] = (TensorBoard,),
    ) -> None:
        run = pathlib.Path(run_dir)
        self._display = None
        if console is not False:
            self._display = Display(total_steps, None if console is True else console)
        self._meter = SpeedMeter(total_steps)
        self._latest: dict[str, float] = {}
        self._evaluated: int | None = None
        directories = [run / name for name in agents] if len(agents) > 1 else [run]
        self._agents = [
            _AgentLog(directory, restored_step, sinks, self.say)
            for directory in directories
        ]
        self._timing = JsonLines(
            run / "timing.jsonl", restored_step=restored_step, warn=self.say
        )
        # The seconds go on from where the interrupted run was.
        spent = (self._timing.last or {}).get("time/seconds") or 0.0
        self._born = time.monotonic() - spent

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Log the metrics of one step.

        Args:
            step: environment steps of one agent.
            metrics: a number for each name, or an array with one for each seed.

        Raises:
            ValueError: a value has neither one number nor one for each seed.
        """
        count = len(self._agents)
        rows: list[dict[str, float]] = [{} for _ in range(count)]
        for name, value in metrics.items():
            values = np.asarray(value)
            if values.shape not in ((), (count,)):
                raise ValueError(
                    f"metric {name} has shape {values.shape}: give one number, or an "
                    f"array of shape ({count},)"
                )
            for row, number in zip(rows, np.broadcast_to(values, count), strict=True):
                row[name] = number.item()
            self._latest[name] = float(np.mean(values))
        if "eval/return_mean" in metrics:
            self._evaluated = step
        for agent, row in zip(self._agents, rows, strict=True):
            agent.write(step, row)

    def write_gifs(self, step: int, name: str, gifs: Sequence[bytes]) -> None:
        """Keep one film of each agent, as RUN/`name`/STEP.gif and for TensorBoard."""
        for agent, gif in zip(self._agents, gifs, strict=True):
            agent.write_gif(step, name, gif)

    def progress(self, step: int, updates: int) -> None:
        """Show progress and log the speed; the first call only starts the clock.

        Args:
            step: environment steps taken by one agent.
            updates: optimizer updates of one agent.
        """
        speed = self._meter.mark(step, updates)
        if speed is not None:
            timing = {
                "time/steps_per_second": speed.steps,
                "time/updates_per_second": speed.updates,
            }
            seconds = time.monotonic() - self._born
            self._timing.write({"step": step, "time/seconds": seconds, **timing})
            self._agents[0].write_sinks(step, timing)
        if self._display is not None:
            self._display.show(step, speed, self._latest, evaluated=self._evaluated)

    def phase(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Tell the user what goes on inside the context, and then its seconds."""
        return self._display.phase(name) if self._display else contextlib.nullcontext()

    def say(self, line: str) -> None:
        """Print a line for the user without disturbing the progress bar."""
        if self._display is not None:
            self._display.say(line)

    def close(self) -> None:
        """Close every file and leave the terminal in order."""
        for agent in self._agents:
            agent.close()
        self._timing.close()
        if self._display is not None:
            self._display.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Silent(Logger):
    """The log of a process that leaves it to another one."""

    def __init__(self) -> None:  # pyright: ignore[reportMissingSuperCall]
        pass

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Do nothing."""

    def write_gifs(self, step: int, name: str, gifs: Sequence[bytes]) -> None:
        """Do nothing."""

    def progress(self, step: int, updates: int) -> None:
        """Do nothing."""

    def phase(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Do nothing."""
        return contextlib.nullcontext()

    def say(self, line: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class _AgentLog:
    """The files of one agent: the record, and the sinks that still work."""

    def __init__(
        self,
        directory: pathlib.Path,
        restored_step: int | None,
        factories: Sequence[SinkFactory],
        say: Callable[[str], None],
    ) -> None:
        self._say = say
        self._directory = directory
        self._record = JsonLines(
            directory / "metrics.jsonl", restored_step=restored_step, warn=say
        )
        self._sinks: list[Sink] = []
        for factory in factories:
            try:
                self._sinks.append(factory(directory, restored_step))
            except Exception as error:
                made = getattr(factory, "func", factory)  # a partial's own function
                self._lost(getattr(made, "__name__", str(made)), error)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self._record.write({"step": step, **metrics})
        self.write_sinks(step, metrics)

    def write_sinks(self, step: int, metrics: Mapping[str, float]) -> None:
        self._to_sinks(lambda sink: sink.write(step, metrics))

    def write_gif(self, step: int, name: str, gif: bytes) -> None:
        path = self._directory / name / f"{step:012d}.gif"
        try:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(gif)
        except OSError as error:
            self._say(f"warning: {path} was not written ({error.strerror})")

        def show(sink: Sink) -> None:
            if isinstance(sink, Films):
                sink.write_gif(step, name, gif)

        self._to_sinks(show)

    def _to_sinks(self, hand_over: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                hand_over(sink)
            except Exception as error:
                self._sinks.remove(sink)
                self._lost(type(sink).__name__, error)
                with contextlib.suppress(Exception):  # it has been said
                    sink.close()

    def close(self) -> None:
        for sink in self._sinks:
            try:
                sink.close()
            except Exception as error:
                self._lost(type(sink).__name__, error)
        self._record.close()

    def _lost(self, name: str, error: Exception) -> None:
        """Whatever goes wrong in a sink must not stop the training."""
        self._say(
            f"warning: {name} failed and is left out from here on "
            f"({type(error).__name__}: {error}); metrics.jsonl goes on"
        )
