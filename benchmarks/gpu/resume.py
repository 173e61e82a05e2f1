"""Which parts of a GPU stage are whole, and need not be measured again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.cli import MEASURED, QUICK
from train.errors import UserError
from train.run_dir.provenance import provenance

WHAT = (MEASURED, QUICK)
"""What a result is: of a stage, or of its rehearsal."""


def whole_parts(path: Path, stage: str, *, quick: bool) -> dict[str, Any]:
    """The parts of an earlier result that need not be measured again.

    Raises:
        UserError: it is no result of this stage, commit and device.
    """
    if stage == "learn":
        raise UserError("--resume: stage learn goes on by itself, in the same --out")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        found = (data["stage"], data["what"], *_origin(data["provenance"]))
        parts = dict(data["parts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--resume {path}: no result of a stage ({error!r})") from None
    wanted = (stage, WHAT[quick], *_origin(provenance()))
    names = ("stage", "result", "commit", "device")
    for name, before, now in zip(names, found, wanted, strict=True):
        if before != now or now is None:  # a commit that nobody knows is not the same
            raise UserError(
                f"--resume {path}: the {name} was {before}, now it is {now}"
            )
    return {name: part for name, part in parts.items() if all_well(name, part)}


def _origin(record: Mapping[str, Any]) -> tuple[str | None, str]:
    return record["commit"], ", ".join(record["machine"]["devices"])


def all_passed(checks: Mapping[str, Any] | None) -> bool:
    """Whether the part ran to its end and every one of its checks passed."""
    if checks is None or checks["ended"] != "complete" or not checks["entries"]:
        return False
    return all(entry.get("passed") is True for entry in checks["entries"].values())


def all_measured(part: Mapping[str, Any]) -> bool:
    """Whether the part ran to its end without an error in any of its entries."""
    errors = ["error" in entry for entry in part["entries"].values()]
    return part["ended"] == "complete" and bool(errors) and not any(errors)


def all_well(name: str, part: Mapping[str, Any]) -> bool:
    """Whether a part need not run again."""
    return all_passed(part) if name == "checks" else all_measured(part)
