"""Several processes as one run: they meet, one dies, all come again."""

import concurrent.futures
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from train import main
from train.errors import UserError
from train.processes import coordination, rendezvous
from train.run_dir.metrics import jsonl

ADDRESS = "127.0.0.1"


def free_port() -> int:
    with socket.socket() as found:
        found.bind((ADDRESS, 0))
        return found.getsockname()[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--num-processes 2", "--num-processes 2: has no effect without --coordinator"),
        ("--process-id 0", "--process-id 0: has no effect without --coordinator"),
        ("--coordinator here", "--coordinator here: not an address; allowed: auto, or"),
        ("--coordinator a:99999", "--coordinator a:99999: not an address"),
        ("--coordinator a:1", "needs --num-processes too; allowed: all three"),
        ("--coordinator a:1 --num-processes 2", "needs --process-id too"),
        (
            "--coordinator a:1 --num-processes 2 --process-id 2",
            "--process-id 2 with --num-processes 2: ids count from 0; allowed: an "
            "integer in [0, 1]; nearest valid: 1",
        ),
        ("--coordinator auto", "no scheduler's variables are set here"),
        ("--coordinator auto --process-id 1", "the scheduler gives it"),
        ("--devices 0", "--devices 0: out of range"),
        ("--devices some", "--devices some: not an integer"),
    ],
)
def test_flags_that_do_not_fit(words, said, capsys):
    """One line and exit code 2, before anything is waited for."""
    assert main.main(words.split()) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def test_a_scheduler_says_who_is_who(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    join = coordination.requested({"--coordinator": "auto", "--coordinator-timeout": 9})
    assert join == coordination.Join(None, None, None, 9)
    # One task has nobody to meet.
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert coordination.requested({"--coordinator": "auto"}) is None


@pytest.mark.long
def test_a_coordinator_that_does_not_answer(capsys):
    words = f"--coordinator {ADDRESS}:{free_port()} --num-processes 2 --process-id 1"
    began = time.monotonic()
    assert main.main(f"{words} --coordinator-timeout 2".split()) == 2
    assert 1 < time.monotonic() - began < 20
    err = capsys.readouterr().err
    assert "no answer within 2 s" in err and err.count("\n") == 1


def test_others_that_never_come(capsys):
    words = f"--coordinator {ADDRESS}:{free_port()} --num-processes 3 --process-id 0"
    assert main.main(f"{words} --coordinator-timeout 1".split()) == 2
    err = capsys.readouterr().err
    assert "process 1, 2 of 3 did not come within 1 s" in err and err.count("\n") == 1


def meeting(*asked: tuple[int, int]) -> list[str]:
    """Process 0 of three, and others that say who they are; what each was told."""
    address = (ADDRESS, free_port())

    def told(call, *words) -> str:
        try:
            call(*words)
        except UserError as error:
            return str(error)
        return "met"

    with concurrent.futures.ThreadPoolExecutor() as pool:
        first = pool.submit(told, rendezvous.gather, address, 3, 3)
        others = []
        for rank, count in asked:
            time.sleep(0.3)
            others.append(pool.submit(told, rendezvous.join, address, rank, count, 2))
        return [each.result() for each in (first, *others)]


def test_processes_meet():
    assert meeting((2, 3), (1, 3)) == ["met"] * 3


def test_ids_and_numbers_that_do_not_fit():
    """Told to those who are wrong; the others still meet."""
    first, one, same, more, two = meeting((1, 3), (1, 3), (2, 4), (2, 3))
    assert (first, one, two) == ("met", "met", "met")
    assert same.startswith("--process-id 1: another process has it")
    assert more.startswith("--num-processes 4: process 0 says 3")


def test_a_port_that_is_taken(capsys):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        words = f"--coordinator {ADDRESS}:{port} --num-processes 2 --process-id 0"
        assert main.main(words.split()) == 2
    assert f"cannot listen at port {port} " in capsys.readouterr().err


def test_one_process_asks_nobody():
    assert (
        coordination.leads()
        and coordination.agree(True)
        and not coordination.agree(False)
    )
    assert coordination.largest(3) == coordination.from_leader(3) == 3
    with pytest.raises(UserError, match="mine"), coordination.leader_first():
        raise UserError("mine")


class Pair:
    """Two trainers of one run, each with two of four devices."""

    def __init__(self, run_dir: pathlib.Path, *words: str) -> None:
        address = f"{ADDRESS}:{free_port()}"
        self.logs = [run_dir.with_name(f"process-{i}.log") for i in range(2)]
        self.children = []
        for rank, log in enumerate(self.logs):
            with log.open("w") as file:
                command = [
                    sys.executable, "-m", "train.main", "--preset", "smoke",
                    "--env", "toy-target", "--num-envs", "4", "--batch-size", "4",
                    "--devices", "4", "--coordinator", address,
                    "--num-processes", "2", "--process-id", str(rank),
                    "--logdir", str(run_dir), "--replay-size", "200", *words,
                ]  # fmt: skip
                child = subprocess.Popen(
                    command, stdout=file, stderr=subprocess.STDOUT, env=os.environ
                )
            self.children.append(child)

    def wait(self) -> list[int]:
        return [child.wait(timeout=280) for child in self.children]

    def said(self, rank: int = 0) -> str:
        return self.logs[rank].read_text()

    def until(self, words: str) -> None:
        for _ in range(2800):
            if words in self.said():
                return
            assert all(child.poll() is None for child in self.children), self.said()
            time.sleep(0.1)
        raise AssertionError(self.said())

    def end(self) -> None:
        for child in self.children:
            child.kill()
            child.wait()


@pytest.fixture
def pairs(tmp_path):
    made = []

    def make(*words: str) -> Pair:
        made.append(Pair(tmp_path / "run", *words))
        return made[-1]

    yield make
    for pair in made:
        pair.end()


def steps(path: pathlib.Path) -> list[int]:
    return [int(line["step"] or 0) for line in jsonl.read(path)]


@pytest.mark.slow
def test_one_of_two_is_killed_and_both_come_again(pairs, tmp_path):
    run = tmp_path / "run"
    first = pairs("--steps", "20000", "--save-every", "200")
    first.until(" steps/s")
    while not list(run.glob("checkpoints/0*")):
        time.sleep(0.2)
    first.children[1].send_signal(signal.SIGKILL)
    codes = first.wait()
    assert codes[1] == -signal.SIGKILL and codes[0] not in (0, None)
    saved = max(int(path.name) for path in run.glob("checkpoints/0*"))
    # Both again; told to stop, one of them is enough.
    second = pairs("--steps", "20000", "--save-every", "20000")
    second.until(f"resuming at environment step {saved:,}")
    second.until(" steps/s")
    second.children[1].send_signal(signal.SIGTERM)
    assert second.wait() == [143, 143]
    # Written once, without a gap or a step twice.
    logged = steps(run / "metrics.jsonl")
    assert logged == sorted(set(logged)) and max(logged) > saved
    assert len(jsonl.read(run / "starts.jsonl")) == 2
    assert second.said(1).count("checkpoints") == 0
    stopped = max(int(path.name) for path in run.glob("checkpoints/0*"))
    assert stopped == logged[-1]
    # One process and another number of devices go on from it.
    for devices, more in (("1", 300), ("2", 600)):
        words = [
            sys.executable, "-m", "train.main", "--preset", "smoke", "--env",
            "toy-target", "--num-envs", "4", "--batch-size", "4", "--replay-size",
            "200", "--logdir", str(run), "--devices", devices, "--steps",
            str(stopped + more),
        ]  # fmt: skip
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "resuming at environment step" in done.stdout
        assert "finished at environment step" in done.stdout


@pytest.mark.slow
def test_what_the_first_refuses_all_refuse(pairs, tmp_path):
    (tmp_path / "run").mkdir()
    pair = pairs("--resume", "must")
    assert pair.wait() == [2, 2]
    assert "--resume must" in pair.said(0)
    assert "another process refused" in pair.said(1)
    assert "Traceback" not in pair.said(0) + pair.said(1)
