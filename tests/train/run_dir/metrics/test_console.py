"""What a run shows while it goes: phases, lines and the bar."""

import io

import pytest
import rich.console

from train.run_dir.metrics.logger import Logger
from train.run_dir.metrics.progress import Display, Speed, SpeedMeter, chosen


def plain_console(width: int = 200) -> tuple[rich.console.Console, io.StringIO]:
    text = io.StringIO()
    return rich.console.Console(file=text, width=width, highlight=False), text


def test_speed_meter_by_hand(monkeypatch):
    times = iter([0.0, *range(100, 121)])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    meter = SpeedMeter(total_steps=1000)
    assert meter.mark(0, 0) is None
    assert meter.mark(100, 10) == Speed(1.0, 0.1, 900.0)
    # What came before, with its compilation, no longer counts.
    assert meter.mark(110, 20) == Speed(10.0, 10.0, 89.0)
    for step in range(120, 300, 10):
        speed = meter.mark(step, step)
    # The last eleven marks only: ten steps and ten updates a second.
    assert speed == Speed(10.0, 10.0, 71.0)


def test_plain_lines_off_a_terminal(tmp_path):
    console, text = plain_console()
    display = Display(200_000, console)
    display.show(0, None, {})
    display.show(
        50_000,
        Speed(1834.2, 13.14, 3725.0),
        {
            "episode/return": 212.43,
            "eval/return_mean": 187.0,
            "train/loss/dyn": 1.234567,
            "train/penalty/posterior": 0.0123456,
            "train/lambda/posterior": 0.25,
            "train/entropy/prior": 9.0,
        },
        evaluated=49_000,
    )
    display.say("saved [bold]as is[/bold]")
    display.close()
    assert text.getvalue().splitlines() == [
        "0%  0/200,000 steps",
        "25%  50,000/200,000 steps  1,834 steps/s  13.1 updates/s  1:02:05 left  "
        "return 212.4  eval 187.0 (step 49,000)  dyn 1.23  penalty 0.0123  lambda 0.25",
        "saved [bold]as is[/bold]",
    ]


def test_a_phase_has_its_seconds_on_its_line(monkeypatch):
    clock = iter([0.0, 31.4, 100.0, 103.25, 200.0])
    monkeypatch.setattr(
        "train.run_dir.metrics.progress.time.monotonic", lambda: next(clock)
    )
    console, text = plain_console()
    display = Display(100, console)
    with display.phase("compiling the update"):
        assert text.getvalue() == "compiling the update ... "
    with display.phase("filling the replay buffer"):
        display.say("SIGINT: stopping")
    with pytest.raises(MemoryError), display.phase("first updates"):
        raise MemoryError
    display.say("a line of its own")
    assert text.getvalue().splitlines() == [
        "compiling the update ... 31 s",
        "filling the replay buffer ... ",
        "SIGINT: stopping",
        "filling the replay buffer ... 3.2 s",
        "first updates ... ",
        "a line of its own",
    ]


def test_an_evaluation_is_shown_with_its_step(tmp_path):
    console, text = plain_console()
    with Logger(tmp_path, total_steps=90, console=console, sinks=()) as log:
        log.write(10, {"eval/return_mean": 5.0})
        log.progress(10, 0)
        log.write(20, {"episode/return": 1.0})
        log.progress(20, 1)
    first, second = text.getvalue().splitlines()
    assert first == "11%  10/90 steps  eval 5 (step 10)"
    assert second.endswith("left  return 1  eval 5 (step 10)")


def test_plain_lines_are_not_wrapped():
    console, text = plain_console(width=20)
    display = Display(100, console)
    display.show(1, Speed(1, 1, 1), {"episode/return": 1.0, "train/loss/dyn": 2.0})
    assert text.getvalue().count("\n") == 1


def test_two_penalties_are_told_apart():
    metrics = {"train/penalty/prior": 1.0, "train/penalty/posterior": 2.0}
    assert chosen(metrics) == [("penalty/prior", 1.0), ("penalty/posterior", 2.0)]


def test_corrupt_steps_and_skipped_updates_are_shown_where_there_are_any():
    metrics = {"episode/corrupt_rows": 0.0, "train/skipped_updates": 0.0}
    assert chosen(metrics) == []
    metrics = {"episode/corrupt_rows": 7.0, "train/skipped_updates": 2.0}
    assert chosen(metrics) == [("corrupt steps", 7.0), ("skipped updates", 2.0)]


def test_a_bar_on_a_terminal():
    text = io.StringIO()
    console = rich.console.Console(file=text, force_terminal=True, width=120)
    display = Display(1000, console)
    display.show(250, Speed(10.0, 2.0, 75.0), {"episode/return": 33.0})
    display.say("a line above")
    display.close()
    shown = text.getvalue()
    assert "25%" in shown and "250/1,000 steps" in shown and "return 33" in shown
    assert "━" in shown and "0:01:15 left" in shown and "a line above" in shown
