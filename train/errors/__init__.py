"""Errors whose text is written for the person at the terminal."""

import contextlib
import os
import pathlib
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import NamedTuple, TextIO

from train.errors.streams import encodable, prepare_streams
from train.errors.surroundings import blamed


class UserError(Exception):
    """A mistake that the user can fix; see `one_line_errors`."""


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


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 episode`, `1,200 episodes`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def one_line(error: BaseException) -> str:
    """What an error says, on one line."""
    return printable(" ".join(str(error).split()))


@contextlib.contextmanager
def logdir_errors(directory: pathlib.Path) -> Iterator[None]:
    """Turn an `OSError` into a one-line error about the run directory.

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


def tell(line: str, file: TextIO | None) -> None:
    """Print a line; where it cannot be written, on a full disk say, go on without.

    Letters that the terminal does not know are shown in ASCII; None is a closed stream.
    """
    if file is None:
        return
    with contextlib.suppress(OSError, ValueError):  # ValueError: the file is closed
        text = encodable(printable(line), getattr(file, "encoding", None))
        print(text, file=file, flush=True)


class Ending(NamedTuple):
    """How a program ends after an error: the line on stderr, and the exit code."""

    line: str
    code: int


def ending(error: BaseException) -> Ending | None:
    """Line and exit code for a user's error; None for a bug of the program."""
    if isinstance(error, UserError):
        return Ending(f"error: {one_line(error)}", 2)
    # JAX's own errors are RuntimeErrors.
    full = isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    if full or isinstance(error, MemoryError):
        return Ending(f"out of memory: {one_line(error)[:200]}", 1)
    line = blamed(error) if isinstance(error, Exception) else None
    return Ending(f"error: {' '.join(line.split())}", 2) if line else None


def _interrupt(error: BaseException) -> KeyboardInterrupt | None:
    """The KeyboardInterrupt that caused an error: imports may wrap it in another."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        if isinstance(following, KeyboardInterrupt):
            return following
        seen.add(id(following))
        following = following.__cause__ or following.__context__
    return None


def guarded(run: Callable[[], int], stopped: str = "stopped") -> int:
    """The exit code of a program, with what goes wrong in it as one line on stderr.

    That is 2 for a `UserError` or an environment variable that cannot be served, 1
    where memory is used up, 130 for Ctrl-C, which is answered with what the exception
    says, or `stopped`. Other errors are raised. What is printed meanwhile never ends
    the program (`streams`).
    """
    prepare_streams()
    try:
        return run()
    except (KeyboardInterrupt, Exception) as error:
        stop = _interrupt(error)
        if stop is not None:
            # `uv run` and `timeout` pass the same Ctrl-C on once more: to an end that
            # has begun it adds nothing.
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            tell(str(stop) or stopped, sys.stderr)
            return 130
        answer = ending(error)
        if answer is None:
            raise
        tell(answer.line, sys.stderr)
        return answer.code
    finally:
        # What could not be written would be tried again at exit, and change its code.
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            try:
                stream.flush()
            except OSError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def guard_process() -> None:
    """`guarded` for a whole process, the imports of its main module included."""
    prepare_streams()
    sys.excepthook = _answer


def _answer(
    kind: type[BaseException], error: BaseException, trace: types.TracebackType | None
) -> None:
    stopped = isinstance(error, KeyboardInterrupt)
    answer = Ending("stopped", 130) if stopped else ending(error)
    if answer is None:
        sys.__excepthook__(kind, error, trace)
        return
    tell(answer.line, sys.stderr)
    raise SystemExit(answer.code)
