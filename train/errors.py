"""Errors whose text is written for the person at the terminal."""

import contextlib
import sys
from collections.abc import Iterator


class UserError(Exception):
    """A mistake the user can repair; see `one_line_errors`."""


class CheckpointMismatch(UserError):
    """A checkpoint holds other arrays than this run needs (structure, shape, dtype)."""


class RunLocked(UserError):
    """Another process already trains in this run directory."""


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Print a `UserError` as one line on stderr and exit with code 2.

    Raises:
        SystemExit: with code 2, in place of a `UserError`.
    """
    try:
        yield
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
