"""What a run shows while it goes: a progress bar, or plain lines without a terminal."""

import collections
import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import rich.console
import rich.live
import rich.progress
import rich.text

from train.errors import printable

# What is worth a glance, in this order: label, and the metric or group of metrics.
_SHOWN = (
    ("return", "episode/return"),
    ("eval", "eval/return_mean"),
    ("loss", "train/loss/total"),
    ("dyn", "train/loss/dyn"),
    ("rec", "train/loss/rec"),
    ("policy", "train/loss/policy"),
    ("value", "train/loss/value"),
    ("penalty", "train/penalty"),
    ("lambda", "train/lambda"),
    ("corrupt steps", "episode/corrupt_rows"),
    ("skipped updates", "train/skipped_updates"),
)
_FAULTS = {"corrupt steps", "skipped updates"}  # worth a glance unless they are zero
_INTERVALS = 10  # over which the speed is averaged


class Speed(NamedTuple):
    """Environment steps and optimizer updates a second, and the seconds left."""

    steps: float
    updates: float
    left: float


class SpeedMeter:
    """Speed over the last few calls; the first call only starts the clock.

    The interval after it contains what a program does once, so it counts only until
    there is another.
    """

    def __init__(self, total_steps: int) -> None:
        self._total = total_steps
        self._warm = False
        self._marks: collections.deque[tuple[float, int, int]] = collections.deque(
            maxlen=_INTERVALS + 1
        )

    def mark(self, step: int, updates: int) -> Speed | None:
        """Note where the run is now; None where the speed is not known yet."""
        now = time.monotonic()
        self._marks.append((now, step, updates))
        if len(self._marks) == 3 and not self._warm:
            self._marks.popleft()
            self._warm = True
        then, first_step, first_updates = self._marks[0]
        if now <= then or step <= first_step:
            return None
        steps = (step - first_step) / (now - then)
        left = max(self._total - step, 0) / steps
        return Speed(steps, (updates - first_updates) / (now - then), left)


class _Console(rich.console.Console):
    """Falls silent when nobody reads it any more, where rich would end the program."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Display:
    """Shows progress on a console. What cannot be written, on a full disk or to a
    terminal that is gone, is left out.

    Args:
        total_steps: environment steps of the run.
        console: where to; standard output by default. A bar is drawn on a terminal,
            elsewhere one line is printed at each call.
    """

    def __init__(
        self, total_steps: int, console: rich.console.Console | None = None
    ) -> None:
        self._console = console or _Console(highlight=False)
        self._total = total_steps
        self._live: rich.live.Live | None = None
        self._unfinished = False  # a phase's line, which waits for its seconds
        self._bar = rich.progress.Progress(
            rich.progress.BarColumn(bar_width=30),
            rich.progress.TaskProgressColumn(),
            rich.progress.TextColumn("{task.description}", markup=False),
            console=self._console,
        )
        self._task = self._bar.add_task("", total=total_steps)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Print what has begun, and at its end, on the same line, how long it took."""
        began = time.monotonic()
        self._print(f"{name} ... ", end="")
        self._unfinished = True
        try:
            yield
        except BaseException:
            self._end_line()
            raise
        seconds = time.monotonic() - began
        took = f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
        if not self._unfinished:  # something else was said meanwhile
            took = f"{name} ... {took}"
        self._unfinished = False
        self._print(took)

    def show(
        self,
        step: int,
        speed: Speed | None,
        metrics: Mapping[str, float],
        *,
        evaluated: int | None = None,
    ) -> None:
        """Show where the run is.

        Args:
            step: environment steps taken.
            speed: None where it is not known yet.
            metrics: the latest value of each metric.
            evaluated: the step that the latest evaluation belongs to.
        """
        steps = f"{step:,}/{self._total:,} steps"
        where = steps if speed is None else f"{steps}  {_pace(speed)}"
        parts = []
        for label, value in chosen(metrics):
            at = ""
            if label == "eval" and evaluated is not None:
                at = f" (step {evaluated:,})"
            parts.append(f"{label} {_short(value)}{at}")
        values = "  ".join(parts)
        if not self._console.is_terminal:
            share = f"{min(step / self._total, 1):.0%}"
            self.say("  ".join(part for part in (share, where, values) if part))
            return
        with contextlib.suppress(OSError):
            self._draw(step, where, values)

    def _draw(self, step: int, where: str, values: str) -> None:
        self._bar.update(self._task, completed=step, description=where)
        group = rich.console.Group(
            self._bar.get_renderable(), rich.text.Text(values, overflow="fold")
        )
        if self._live is None:
            self._live = rich.live.Live(console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(group, refresh=True)

    def say(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        self._end_line()
        self._print(printable(line))

    def _end_line(self) -> None:
        """Let what follows begin on a line of its own."""
        if self._unfinished:
            self._unfinished = False
            self._print("")

    def _print(self, text: str, end: str = "\n") -> None:
        with contextlib.suppress(OSError):
            self._console.print(
                text, end=end, markup=False, emoji=False, soft_wrap=True
            )
            self._console.file.flush()

    def close(self) -> None:
        """Leave the bar as it is and give the terminal back."""
        if self._live is not None:
            with contextlib.suppress(OSError):
                self._live.stop()
            self._live = None


def chosen(metrics: Mapping[str, float]) -> list[tuple[str, float]]:
    """The metrics worth showing, with their labels.

    A group with one member goes by the group's label, else the members' names follow:
    `penalty`, or `penalty/prior` and `penalty/posterior`. Corrupt steps and skipped
    updates are shown where there are any.
    """
    found: list[tuple[str, float]] = []
    for label, prefix in _SHOWN:
        group = [k for k in metrics if k == prefix or k.startswith(prefix + "/")]
        for key in group:
            if label in _FAULTS and not metrics[key]:
                continue
            name = label if len(group) == 1 else label + key.removeprefix(prefix)
            found.append((name, metrics[key]))
    return found


def _pace(speed: Speed) -> str:
    minutes, seconds = divmod(round(speed.left), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{speed.steps:,.0f} steps/s  {speed.updates:.1f} updates/s  "
        f"{hours}:{minutes:02}:{seconds:02} left"
    )


def _short(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"
