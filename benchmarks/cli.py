"""Shared by all benchmarks: flags, exit codes, and writing of results."""

import argparse
import csv
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from matplotlib.figure import Figure

from train.errors import UserError, guarded, tell
from train.run_dir.provenance import write_result

QUICK = "a quick check, not a measurement"
"""What a result of `--quick` is, in its file. Older files have `WAS_QUICK`."""
WAS_QUICK = "a check of the machinery"
MEASURED = "a measurement"


class Parser(argparse.ArgumentParser):
    """An argument parser that reports errors in one line on stderr, exit code 2.

    Args:
        name: what follows `python -m benchmarks.`, e.g. `overhead.op`.
        options: see `argparse.ArgumentParser`.
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(prog=f"python -m benchmarks.{name}", **options)

    def error(self, message: str) -> NoReturn:
        """Print the error message and exit with code 2."""
        text = message.removeprefix("argument ")
        tell(f"error: {text} (--help lists all flags)", sys.stderr)
        raise SystemExit(2)

    def add_outputs(self, *, quick: str, html: bool = False) -> None:
        """Add the flags that `publish` reads.

        Args:
            quick: help text of `--quick`.
            html: also add `--html`, for `publish(page=...)`.
        """
        self.add_argument("--quick", action="store_true", help=quick)
        self.add_argument(
            "--json", type=Path, metavar="OUT", help="write the result to this file"
        )
        self.add_argument("--png", type=Path, metavar="OUT", help="plot to this file")
        if html:
            self.add_argument(
                "--html",
                type=Path,
                metavar="OUT",
                help="write a report to this file: one HTML page without other files",
            )


def command(
    parser: Parser,
    run: Callable[[argparse.Namespace], int | None],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse the flags and run; returns the exit code.

    The exit code is that of `run`, by default 0. A `UserError` or `OSError` gives 2 and
    one line on stderr; see `train.errors.guarded`.
    """
    options = parser.parse_args(argv)

    def answered() -> int:
        try:
            return run(options) or 0
        except OSError as error:
            raise UserError(str(error)) from error

    return guarded(answered)


def counts(text: str) -> list[int]:
    """Parse a flag's value: positive integers separated by commas."""
    try:
        found = [int(word) for word in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text}: allowed: counts such as 1,4,8")
    return found


def count(text: str) -> int:
    """Parse a flag's value: a positive integer."""
    value = amount(text)
    if not value.is_integer():
        raise argparse.ArgumentTypeError(f"{text}: allowed: an integer >= 1")
    return int(value)


def amount(text: str) -> float:
    """Parse a flag's value: a positive number."""
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
    page: Callable[[], str] | None = None,
    with_device: bool = True,
) -> None:
    """Write `--json`, print `text`, then plot to `--png` and write `--html`.

    The text is printed even if the JSON file cannot be written.

    Args:
        options: has `json` and `png`, each a path or None, and `quick`; with `page`
            also `html`, a path or None.
        result: content of `--json`; `what` (measurement or not) and provenance are
            added.
        text: printed on the terminal.
        draw: makes the figure; called only with `--png`.
        page: makes the report (`benchmarks.measure.page`); called only with `--html`.
        with_device: see `train.run_dir.provenance.provenance`.

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
            print(f"--quick: {QUICK}")
    if options.json is not None:
        print(f"wrote {options.json}")
    if options.png is not None:
        save_figure("--png", options.png, draw())
    if page is not None and options.html is not None:
        save_page("--html", options.html, page())


def save_figure(flag: str, path: Path, figure: Figure) -> None:
    """Write a figure; parent folders are created.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except (OSError, ValueError) as error:  # ValueError: unknown image format
        raise _refused(flag, path, error) from None
    print(f"drew {path}")


def save_page(flag: str, path: Path, text: str) -> None:
    """Write an HTML page; parent folders are created.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _refused(flag, path, error) from None
    print(f"wrote {path}")


def save_rows(flag: str, path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, with the columns of all; parent folders are created.

    Raises:
        UserError: the file cannot be written.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise _refused(flag, path, error) from None
    print(f"wrote {path}")


def _refused(flag: str, path: Path, error: Exception) -> UserError:
    return UserError(f"{flag} {path}: cannot be written ({error})")
