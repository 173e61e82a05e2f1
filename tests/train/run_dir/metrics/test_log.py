"""The log: the record, and what fails beside it."""

import contextlib
import io
import json
import os
import pathlib
import resource
import struct
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import rich.console
from tensorboardX.proto import event_pb2

from train.run_dir.metrics import jsonl
from train.run_dir.metrics.logger import Logger, TensorBoard

ROOT = pathlib.Path(__file__).parents[4]


SEEDS = [f"seed_{seed}" for seed in range(3)]


def lines(path: pathlib.Path) -> list[dict]:
    return jsonl.read(path)


def plain_console(width: int = 200) -> tuple[rich.console.Console, io.StringIO]:
    text = io.StringIO()
    return rich.console.Console(file=text, width=width, highlight=False), text


def quiet(run: pathlib.Path, **options) -> Logger:
    options = {"total_steps": 1000, "console": False, "sinks": ()} | options
    return Logger(run, **options)


def test_a_line_for_each_write_at_once(tmp_path):
    log = quiet(tmp_path / "run")
    log.write(10, {"train/loss/dyn": np.float32(0.1), "episode/count": np.int32(3)})
    log.write(20, {"eval/return_mean": 5.5})
    # Read before closing: nothing waits in a buffer.
    assert lines(tmp_path / "run" / "metrics.jsonl") == [
        {"step": 10, "train/loss/dyn": float(np.float32(0.1)), "episode/count": 3},
        {"step": 20, "eval/return_mean": 5.5},
    ]
    log.close()


def test_what_is_not_finite_becomes_null(tmp_path):
    with quiet(tmp_path) as log:
        log.write(1, {"a": np.nan, "b": np.float32(np.inf), "c": 0.0})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == {
        "step": 1,
        "a": None,
        "b": None,
        "c": 0.0,
    }


def test_a_resumed_log_equals_an_unbroken_one(tmp_path):
    def run(log: Logger, steps: range) -> None:
        for step in steps:
            log.write(step, {"x": step / 7})
            log.progress(step, step)
        log.close()

    run(quiet(tmp_path / "whole"), range(0, 60, 10))
    run(quiet(tmp_path / "broken"), range(0, 50, 10))  # then killed, saved at 20
    path = tmp_path / "broken" / "metrics.jsonl"
    with path.open("ab") as file:
        file.write(b'{"step": 15, "x"')  # cut short by the kill
    run(quiet(tmp_path / "broken", restored_step=20), range(30, 60, 10))
    assert path.read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert [f.name for f in tmp_path.rglob("*.tmp")] == []


def test_a_new_run_starts_an_empty_record(tmp_path):
    for _ in range(2):
        with quiet(tmp_path) as log:
            log.write(0, {"x": 1})
    assert lines(tmp_path / "metrics.jsonl") == [{"step": 0, "x": 1}]
    # What was there is not lost.
    assert lines(tmp_path / "metrics.jsonl.1") == [{"step": 0, "x": 1}]
    assert not (tmp_path / "metrics.jsonl.2").exists()


def test_damaged_lines_of_a_record_are_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    bad = ['{"step"', "null", '{"step": null}', '{"step": "2"}', "[" * 10**5, "\xff"]
    good = '{"step": 1}\n'
    path.write_bytes((good + "\n".join(bad) + "\n" + good).encode("latin-1"))
    console, text = plain_console()
    Logger(tmp_path, total_steps=1, console=console, sinks=(), restored_step=1).close()
    assert lines(path) == [{"step": 1}, {"step": 1}]
    said = f"left out 6 lines of {path} that cannot be read"
    assert said in text.getvalue().replace("\n", " ")


def test_resuming_without_a_record_is_no_fault(tmp_path):
    with quiet(tmp_path, restored_step=50) as log:
        log.write(60, {"x": 1})
    assert lines(tmp_path / "metrics.jsonl") == [{"step": 60, "x": 1}]


def test_each_seed_has_its_own_log(tmp_path):
    console, text = plain_console()
    with Logger(
        tmp_path, total_steps=100, agents=SEEDS, console=console, sinks=[TensorBoard]
    ) as log:
        log.write(10, {"episode/return": np.array([1.0, 2.0, 6.0]), "shared": 4})
        log.progress(10, 1)
    for seed, value in enumerate([1.0, 2.0, 6.0]):
        directory = tmp_path / f"seed_{seed}"
        assert lines(directory / "metrics.jsonl") == [
            {"step": 10, "episode/return": value, "shared": 4}
        ]
        assert len(list((directory / "tensorboard").iterdir())) == 1
    assert not (tmp_path / "metrics.jsonl").exists()
    assert "return 3" in text.getvalue()


@pytest.mark.parametrize("value", [np.zeros(2), np.zeros((3, 1)), np.zeros(1)])
def test_a_value_for_the_wrong_number_of_seeds_is_refused(tmp_path, value):
    with (
        quiet(tmp_path, agents=SEEDS) as log,
        pytest.raises(ValueError, match="metric x"),
    ):
        log.write(1, {"x": value})


class Recorder:
    """A sink that remembers, and fails on request."""

    def __init__(self, directory: pathlib.Path, restored_step: int | None) -> None:
        self.seen: list[tuple[int, dict[str, float]]] = []
        self.closed = False
        self.fail = False
        RECORDERS.append(self)

    def write(self, step, metrics) -> None:
        if self.fail:
            raise ConnectionError("no network")
        self.seen.append((step, dict(metrics)))

    def close(self) -> None:
        self.closed = True


class Broken(Recorder):
    """A sink that cannot even be made."""

    def __init__(self, directory: pathlib.Path, restored_step: int | None) -> None:
        raise ImportError("not installed")


RECORDERS: list[Recorder] = []


def test_a_failing_sink_is_named_once_and_left_out(tmp_path):
    RECORDERS.clear()
    console, text = plain_console()
    log = Logger(
        tmp_path, total_steps=100, console=console, sinks=[Recorder, Broken, Recorder]
    )
    assert "warning: Broken failed and is left out" in text.getvalue()
    bad, good = RECORDERS
    log.write(1, {"x": 1.0})
    bad.fail = True
    for step in (2, 3):
        log.write(step, {"x": 1.0})
    log.close()
    assert [step for step, _ in bad.seen] == [1]
    assert [step for step, _ in good.seen] == [1, 2, 3] and good.closed
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    assert text.getvalue().count("warning: Recorder failed") == 1
    assert "ConnectionError: no network" in text.getvalue()


def test_the_record_survives_a_full_disk(tmp_path):
    console, text = plain_console()
    log = Logger(tmp_path, total_steps=100, console=console, sinks=())
    log.write(1, {"x": 1.0})
    size = (tmp_path / "metrics.jsonl").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, before[1]))
    try:
        log.write(2, {"x": 2.0})
        log.write(3, {"x": 3.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "metrics.jsonl").stat().st_size == size  # no half line
    assert text.getvalue().count("warning:") == 1
    log.write(4, {"x": 4.0})
    steps = [line["step"] for line in lines(tmp_path / "metrics.jsonl")]
    assert steps == [1, 2, 3, 4]
    size = (tmp_path / "metrics.jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, before[1]))
    try:
        for step in (5, 6):
            log.write(step, {"x": 0.0})
        log.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "warning: 2 lines of " in text.getvalue()


def test_tensorboard_holds_the_metrics(tmp_path):
    with quiet(tmp_path, sinks=[TensorBoard]) as log:
        log.write(10, {"train/loss/dyn": 0.5})
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert b"train/loss/dyn" in path.read_bytes()


def test_tensorboard_goes_on_where_the_run_does(tmp_path):
    """What an interrupted run had logged beyond its checkpoint is hidden."""
    for restored, steps in ((None, (10, 20)), (10, (20, 30))):
        with quiet(tmp_path, sinks=[TensorBoard], restored_step=restored) as log:
            for step in steps:
                log.write(step, {"x": float(step), "y": np.nan})
    paths = sorted((tmp_path / "tensorboard").iterdir())
    first, second = (read_events(path) for path in paths)
    assert [event.step for event in first if event.summary.value] == [10, 20]
    (start,) = [event for event in second if event.session_log.status == 1]
    assert start.step == 11
    points = [(v.tag, v.simple_value) for e in second for v in e.summary.value]
    assert [point for point in points if point[0] == "x"] == [("x", 20.0), ("x", 30.0)]


def read_events(path: pathlib.Path) -> list[Any]:
    """All events of a file of TensorBoard's."""
    content, events = path.read_bytes(), []
    while content:
        (size,) = struct.unpack("Q", content[:8])
        event: Any = event_pb2
        events.append(event.Event.FromString(content[12 : 12 + size]))
        content = content[16 + size :]
    return events


def test_speed_is_kept_apart_from_the_record(tmp_path, monkeypatch):
    clock = iter([0.0, 100.0, 110.0, 120.0, 121.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    log = quiet(tmp_path)  # at 0
    log.progress(0, 0)  # at 100: only starts the clock
    log.progress(400, 50)  # at 110, and 120 for the seconds since the start
    assert lines(tmp_path / "timing.jsonl") == [
        {
            "step": 400,
            "time/seconds": 120.0,
            "time/steps_per_second": 40.0,
            "time/updates_per_second": 5.0,
        }
    ]
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_logger_without_a_console_is_silent(tmp_path, capsys):
    with quiet(tmp_path, sinks=[Broken]) as log:
        log.say("nothing")
        log.write(1, {"x": 1})
        log.progress(1, 1)
    assert capsys.readouterr() == ("", "")


def test_the_record_is_appended_by_whole_lines(tmp_path):
    """Readers that follow the file never see a part of a line."""
    log = quiet(tmp_path)
    reader = os.open(tmp_path / "metrics.jsonl", os.O_RDONLY)
    for step in range(5):
        log.write(step, {"x": step})
        assert os.read(reader, 10_000).endswith(b"}\n")
    os.close(reader)
    log.close()


def test_output_that_cannot_be_written_is_left_out(tmp_path):
    """A full disk under standard output, which is files on a cluster."""
    with open("/dev/full", "w") as full:
        console = rich.console.Console(file=full)
        with Logger(tmp_path, total_steps=9, console=console, sinks=()) as log:
            for step in range(3):
                log.say("a line")
                log.progress(step, step)
                log.write(step, {"x": step})
        with contextlib.suppress(OSError):
            full.close()
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [0, 1, 2]


@pytest.mark.parametrize("reader", ["/dev/full", "nobody"])
def test_a_program_outlives_the_reader_of_its_output(tmp_path, reader):
    """As with `python -m train.main | head -1`: the work is done, the code is its."""
    code = (
        "import sys, pathlib\n"
        "from train.run_dir.metrics.progress import Display\n"
        "from train.errors import guarded, tell\n"
        "def run():\n"
        "    for i in range(3000):\n"
        "        Display(9).say('a line ' * 9)\n"
        "        tell('another', sys.stdout)\n"
        "    pathlib.Path(sys.argv[1]).touch()\n"
        "    return 7\n"
        "sys.exit(guarded(run))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "done")]
    full = open(reader, "w") if reader != "nobody" else subprocess.PIPE  # noqa: SIM115
    process = subprocess.Popen(
        command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    if process.stdout is not None:
        process.stdout.readline()
        process.stdout.close()
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (7, "")
    assert (tmp_path / "done").exists()
    if not isinstance(full, int):
        full.close()
