"""The lock that keeps two processes from training in one directory."""

import contextlib
import fcntl
import json
import os
import pathlib
import socket
import sys
import time
from types import TracebackType
from typing import Self

from train.errors import RunLocked, logdir_errors, tell
from train.run_dir.links import check_inside

_INSTANT = 0.05  # seconds


class RunLock:
    """Exclusive use of a run directory, which is made where it does not exist.

    The operating system drops the lock with the process that holds it, however that
    ends, so a lock left by a dead process never stands in the way. The file names the
    holder only so that the refusal can.

    >>> with RunLock(run_dir):
    ...     train()
    """

    def __init__(self, run_dir: str | os.PathLike[str]) -> None:
        self._path = pathlib.Path(run_dir) / "lock"
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        """Take the lock.

        Raises:
            RunLocked: another process holds it.
            UserError: the directory cannot be made or written, or holds a link that
                leads out of it.
        """
        directory = self._path.parent
        with logdir_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
            check_inside(directory)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            lock_now(descriptor)
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise RunLocked(
                f"--logdir {directory}: in use by {holder}; stop that process or "
                "choose another --logdir"
            ) from None
        except OSError as error:  # some network file systems have no locks
            tell(
                f"warning: {directory} cannot be locked ({error.strerror}); see to it "
                "yourself that no second process trains there",
                sys.stderr,
            )
        holder = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
        # On a full disk the lock holds all the same, but cannot name its holder.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, holder.encode(), 0)
        self._descriptor = descriptor
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The file stays: removing it could take away a lock that another process has
        # just opened.
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_locked(path: pathlib.Path) -> bool:
    """Whether a process holds the lock on this file now.

    Where the file is missing, or the file system has no locks, none does.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def lock_now(descriptor: int) -> None:
    """Lock an open file.

    `is_locked` holds the lock for an instant: that is waited for.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(_INSTANT)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _holder(descriptor: int) -> str:
    try:
        record = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {record['pid']} on host {record['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"  # caught between taking the lock and naming itself
