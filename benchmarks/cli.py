"""What every benchmark does with its result."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from train.errors import UserError
from train.provenance import write_result

QUICK = "a check of the machinery"
MEASURED = "a measurement"


def publish(
    options: argparse.Namespace,
    result: Mapping[str, Any],
    text: str,
    draw: Callable[[], Figure],
    *,
    with_device: bool = True,
) -> None:
    """Write `--json`, print, draw `--png`: in this order, so that nothing is lost.

    What cannot be written is printed all the same.

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
