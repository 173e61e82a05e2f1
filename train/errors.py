"""Errors whose text is written for the person at the terminal."""

import contextlib
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import TextIO


class UserError(Exception):
    """A mistake the user can repair; see `one_line_errors`."""


class CheckpointMismatch(UserError):
    """A checkpoint holds other arrays than this run needs (structure, shape, dtype)."""


class RunLocked(UserError):
    """Another process already trains in this run directory."""


def printable(text: str) -> str:
    """The text with control characters, line ends and broken bytes as escapes.

    A file name may hold what a terminal takes for a command, or what cannot be printed.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


def one_line(error: Exception) -> str:
    """What an error says, on one line."""
    return printable(" ".join(str(error).split()))


@contextlib.contextmanager
def logdir_errors(directory: pathlib.Path) -> Iterator[None]:
    """Turn what the system refuses into a line about the run directory.

    Raises:
        UserError: in place of an `OSError`.
    """
    try:
        yield
    except OSError as error:
        inside = f" at {error.filename}" if error.filename else ""
        raise UserError(
            f"--logdir {directory}: cannot be written ({error.strerror or error}"
            f"{inside}); allowed: a directory you may write in"
        ) from None


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Print a `UserError` as one line on stderr and exit with code 2.

    Raises:
        SystemExit: with code 2, in place of a `UserError`.
    """
    try:
        yield
    except UserError as error:
        tell(f"error: {one_line(error)}", sys.stderr)
        raise SystemExit(2) from None


def tell(line: str, file: TextIO) -> None:
    """Print a line; where it cannot be written, on a full disk say, go on without."""
    with contextlib.suppress(OSError):
        print(printable(line), file=file, flush=True)


def guarded(run: Callable[[], int], stopped: str = "stopped") -> int:
    """The exit code of a program, with what goes wrong in it as one line on stderr.

    That is 2 for a `UserError`, 1 where the device's memory is used up, 130 for Ctrl-C,
    which is answered with `stopped`. Other errors are raised.
    """
    try:
        return run()
    except UserError as error:
        tell(f"error: {one_line(error)}", sys.stderr)
        return 2
    except KeyboardInterrupt:
        tell(stopped, sys.stderr)
        return 130
    except RuntimeError as error:  # JAX's own is one
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        tell(f"out of memory: {one_line(error)[:200]}", sys.stderr)
        return 1
    finally:
        # What could not be written would be tried again at exit, and change its code.
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            try:
                stream.flush()
            except OSError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
