"""Writes the README's speed tables from the committed results.

    python -m benchmarks.readme            rewrite README.md
    python -m benchmarks.readme --check    exit status 1 where it would change

What stands between ``<!-- generated: NAME -->`` and ``<!-- end: NAME -->`` is replaced:
NAME is overhead, throughput or gpu. All numbers come from the JSON files under
``benchmarks/results`` that their benchmark calls a measurement; where two files measure
the same thing on the same machine, the later one counts. The rest of the README is
written by hand.
"""

import argparse
import difflib
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import STAGES
from benchmarks.readme import tables
from benchmarks.readme.tables import Result
from train.config.sizes import SIZES
from train.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = {
    "overhead": "python -m benchmarks.overhead --size 12m",
    "throughput": "python -m benchmarks.throughput",
}
"""What to run where there is no result."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; exit status 1 if `--check` finds a difference."""
    options = _parser().parse_args(argv)
    try:
        before = options.readme.read_text(encoding="utf-8")
        after = rewrite(before, parts(options.results, options.readme.parent))
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if before == after:
        print(f"{options.readme.name} agrees with the results")
        return 0
    if options.check:
        lines = before.splitlines(), after.splitlines()
        print("\n".join(difflib.unified_diff(*lines, "README", "results", lineterm="")))
        print("error: run python -m benchmarks.readme", file=sys.stderr)
        return 1
    options.readme.write_text(after, encoding="utf-8")
    print(f"wrote {options.readme.name}")
    return 0


def rewrite(text: str, content: dict[str, str]) -> str:
    """The text with what is between each pair of marks replaced.

    Raises:
        UserError: a mark is missing, doubled or not known.
    """
    marks = re.findall(r"<!-- generated: (\S+) -->", text)
    if sorted(marks) != sorted(content):
        raise UserError(
            f"README: has the marks {', '.join(marks) or 'none'}; wanted: "
            f"{', '.join(content)}, each once"
        )
    for name, part in content.items():
        begin, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
        pattern = rf"{re.escape(begin)}.*?{re.escape(end)}"
        new = f"{begin}\n{part}\n{end}"
        text, count = re.subn(pattern, lambda _, new=new: new, text, flags=re.DOTALL)
        if count != 1:
            raise UserError(f"README: {begin} has no {end} after it")
    return text


def parts(folder: Path, base: Path) -> dict[str, str]:
    """What belongs between the marks.

    Args:
        folder: where the results are.
        base: the README's folder, from which its links lead.
    """
    found = measurements(folder, base)
    content = {
        name: getattr(tables, name)(_latest(found, name), command)
        for name, command in COMMANDS.items()
    }
    content["gpu"] = tables.gpu(
        {stage: _latest(found, f"gpu {stage}") for stage in STAGES}
    )
    return content


def measurements(folder: Path, base: Path) -> list[Result]:
    """All results below a folder that their benchmark calls a measurement.

    Raises:
        UserError: a file is not JSON.
    """
    found = []
    for path in sorted(folder.rglob("*.json")):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path}: not JSON ({error})") from None
        if isinstance(data, dict) and data.get("what") == "a measurement":
            link = path.resolve().relative_to(base.resolve())
            picture = link.with_suffix(".png")
            seen = picture.as_posix() if (base / picture).is_file() else None
            found.append(Result(link.as_posix(), data, seen))
    return found


def kind(data: Any) -> str | None:
    """Which benchmark wrote a result, by what it holds; None for all others."""
    holds: Callable[..., bool] = lambda *keys: all(key in data for key in keys)  # noqa: E731
    if holds("stage", "parts"):
        return f"gpu {data['stage']}"
    if holds("shape", "baseline_seconds", "rows"):
        return "overhead"
    if holds("updates", "seeds", "loop"):
        return "throughput"
    return None


def _latest(found: Sequence[Result], name: str) -> list[Result]:
    """Of one kind, the last of each machine and size; small models first."""
    latest: dict[tuple[str, int], Result] = {}
    for result in sorted(found, key=lambda each: each.data["provenance"]["date"]):
        if kind(result.data) == name:
            machine = result.data["provenance"]["machine"]
            size = result.data.get("shape", {}).get("size")
            order = list(SIZES).index(size) if size else 0
            known = {key: machine.get(key) for key in ("cpu", "cores", "devices")}
            latest[json.dumps(known, sort_keys=True), order] = result
    return [latest[key] for key in sorted(latest)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.readme",
        description="Write the README's speed tables from the committed results.",
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 if it would"
    )
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results", metavar="DIR"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
