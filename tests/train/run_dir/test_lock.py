"""The lock of a run's directory, against a second process."""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading

import pytest

from train.errors import RunLocked, UserError
from train.run_dir.lock import RunLock, is_locked


def test_lock_keeps_a_second_process_out(tmp_path):
    code = (
        "import sys\n"
        "from train.run_dir.lock import RunLock\n"
        "with RunLock(sys.argv[1]):\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == b"locked\n"
    with pytest.raises(RunLocked) as caught, RunLock(tmp_path / "run"):
        pass
    message = str(caught.value)
    assert f"process {process.pid} on host {socket.gethostname()}" in message
    assert "--logdir" in message and isinstance(caught.value, UserError)
    process.kill()  # its lock file stays, and must not stand in the way
    process.wait()
    process.stdin.close()
    process.stdout.close()
    with RunLock(tmp_path / "run"):
        record = json.loads((tmp_path / "run" / "lock").read_text())
        assert record["pid"] == os.getpid()


def test_lock_is_given_back(tmp_path):
    for _ in range(2):
        with RunLock(tmp_path), pytest.raises(RunLocked), RunLock(tmp_path):
            pass
    (tmp_path / "lock").write_text("garbage")
    with RunLock(tmp_path):
        (tmp_path / "lock").write_text("")
        with pytest.raises(RunLocked, match="in use by another process"):
            RunLock(tmp_path).__enter__()


def test_an_unwritable_directory_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--logdir .*file.*cannot be written"):
        RunLock(tmp_path / "file" / "run").__enter__()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_used_with_a_warning(
    tmp_path, monkeypatch, capsys, number
):
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with RunLock(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    err = capsys.readouterr().err
    assert err.startswith(f"warning: {tmp_path} cannot be locked (")
    assert err.count("\n") == 1


def test_looking_at_a_lock_keeps_nobody_out(tmp_path):
    assert not is_locked(tmp_path / "run" / "lock")
    with RunLock(tmp_path / "run"):
        assert is_locked(tmp_path / "run" / "lock")
    path = tmp_path / "run" / "lock"
    assert not is_locked(path)
    # Somebody looks just now: the lock is taken a moment later.
    with path.open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.01, fcntl.flock, (looking, fcntl.LOCK_UN)).start()
        with RunLock(tmp_path / "run"):
            assert is_locked(path)
