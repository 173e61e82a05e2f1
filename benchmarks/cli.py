"""Shared by all benchmarks: flags, exit codes, and where a result goes."""

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from matplotlib.figure import Figure

from train.errors import UserError, guarded, tell
from train.provenance import write_result

QUICK = "a check of the machinery"
MEASURED = "a measurement"


class Parser(argparse.ArgumentParser):
    """Answers a mistake in one line on stderr, with exit code 2.

    Args:
        name: of the benchmark: `op` for `python -m benchmarks.op`.
        options: see `argparse.ArgumentParser`.
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(prog=f"python -m benchmarks.{name}", **options)

    def error(self, message: str) -> NoReturn:
        """Print the line and exit."""
        text = message.removeprefix("argument ")
        tell(f"error: {text} (--help lists all flags)", sys.stderr)
        raise SystemExit(2)

    def add_outputs(self, *, quick: str) -> None:
        """The flags that `publish` reads; `quick` is the help of `--quick`."""
        self.add_argument("--quick", action="store_true", help=quick)
        self.add_argument(
            "--json", type=Path, metavar="OUT", help="write the result here"
        )
        self.add_argument("--png", type=Path, metavar="OUT", help="draw it here")


def command(
    parser: Parser,
    run: Callable[[argparse.Namespace], int | None],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse the flags and run; returns the exit code.

    That is what `run` returns, or 0. It is 2 after a `UserError` or a file that cannot
    be read or written, with one line on stderr; see `train.errors.guarded`.
    """
    options = parser.parse_args(argv)

    def answered() -> int:
        try:
            return run(options) or 0
        except OSError as error:
            raise UserError(str(error)) from error

    return guarded(answered)


def counts(text: str) -> list[int]:
    """A flag's value that must be positive integers with commas between them."""
    try:
        found = [int(word) for word in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text}: allowed: counts such as 1,4,8")
    return found


def count(text: str) -> int:
    """A flag's value that must be a positive integer."""
    value = amount(text)
    if not value.is_integer():
        raise argparse.ArgumentTypeError(f"{text}: allowed: an integer >= 1")
    return int(value)


def amount(text: str) -> float:
    """A flag's value that must be a positive number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: allowed: a number > 0")
    return value


def publish(
    options: argparse.Namespace,
    result: Mapping[str, Any],
    text: str,
    draw: Callable[[], Figure],
    *,
    with_device: bool = True,
) -> None:
    """Write `--json`, print, draw `--png`: in this order, so that nothing is lost.

    The text is printed even if the file cannot be written.

    Args:
        options: has `json` and `png`, each a path or None, and `quick`.
        result: for `--json`; whether it is a measurement (`what`) and its provenance
            are added.
        text: for the terminal.
        draw: makes the picture; called only where `--png` asks for one.
        with_device: see `train.provenance.provenance`.

    Raises:
        UserError: a file cannot be written.
    """
    try:
        if options.json is not None:
            what = QUICK if options.quick else MEASURED
            record = {"what": what, **result}
            try:
                write_result(options.json, record, with_device=with_device)
            except OSError as error:
                raise _refused("--json", options.json, error) from None
    finally:
        print(text, flush=True)
        if options.quick:
            print(f"--quick: {QUICK}, no measurement")
    if options.json is not None:
        print(f"wrote {options.json}")
    if options.png is not None:
        save_figure("--png", options.png, draw())


def save_figure(flag: str, path: Path, figure: Figure) -> None:
    """Write a picture, in a folder that is made for it.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except (OSError, ValueError) as error:  # ValueError: no such format
        raise _refused(flag, path, error) from None
    print(f"drew {path}")


def _refused(flag: str, path: Path, error: Exception) -> UserError:
    return UserError(f"{flag} {path}: cannot be written ({error})")
