"""Write the generated tables of the documentation from the committed results.

    python -m benchmarks.readme            rewrite them, in README.md and docs/
    python -m benchmarks.readme --check    exit status 1 where they would change

The text between ``<!-- generated: NAME -->`` and ``<!-- end: NAME -->`` is replaced;
`DOCUMENTS` lists the names in each file. The numbers come from the JSON files under
``benchmarks/results`` that are marked as a measurement; of several files for the same
benchmark and machine, the latest is used.
"""

import argparse
import difflib
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cli import Parser, command
from benchmarks.gpu.compile.command import WHAT as COUNTED
from benchmarks.gpu.parts import STAGES
from benchmarks.readme import experiments, speed, tables
from benchmarks.readme.tables import Result
from benchmarks.suite.declare import FILES
from core.sizes import SIZES
from train.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = {
    "README.md": ("headline",),
    "docs/benchmarks.md": ("overhead", "beside", "start", "throughput", "gpu"),
    "docs/does-it-help.md": ("evidence", "ablations"),
    "docs/gpu.md": ("compiled",),
}
"""The generated parts of each file, by path relative to the root."""

WHAT = ("a measurement", COUNTED)
"""What a result says of itself that is no rehearsal."""

COMMANDS = {
    "headline": "python -m benchmarks.overhead --size 12m",
    "overhead": "python -m benchmarks.overhead --size 12m",
    "beside": "python -m benchmarks.throughput --beside NAME=COMMAND",
    "start": "python -m benchmarks.throughput --start",
    "throughput": "python -m benchmarks.throughput",
    "evidence": "python -m benchmarks.suite evidence --folder DIR",
    "compiled": "python -m benchmarks.gpu --stage compile",
}
"""The command to run if there is no result."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; exit code 1 if `--check` finds a difference."""
    return command(_parser(), _run, argv)


def _run(options: argparse.Namespace) -> int:
    results = measurements(options.root / "benchmarks" / "results")
    rewritten = {}
    for name, wanted in DOCUMENTS.items():
        path = options.root / name
        before = path.read_text(encoding="utf-8")
        content = parts(results, path.parent, wanted)
        rewritten[path] = (before, rewrite(before, content, name))
    differ = False
    for path, (before, after) in rewritten.items():
        if before == after:
            print(f"{path.name} agrees with the results")
            continue
        differ = True
        if options.check:
            lines = before.splitlines(), after.splitlines()
            diff = difflib.unified_diff(*lines, path.name, "results", lineterm="")
            print("\n".join(diff))
        else:
            path.write_text(after, encoding="utf-8")
            print(f"wrote {path.name}")
    if options.check and differ:
        print("error: run python -m benchmarks.readme", file=sys.stderr)
        return 1
    return 0


def rewrite(text: str, content: dict[str, str], name: str) -> str:
    """The text with the content between each pair of marks replaced.

    Raises:
        UserError: a mark is missing, duplicated or unknown.
    """
    marks = re.findall(r"<!-- generated: (\S+) -->", text)
    if sorted(marks) != sorted(content):
        raise UserError(
            f"{name}: has the marks {', '.join(marks) or 'none'}; wanted: "
            f"{', '.join(content)}, each once"
        )
    for mark, part in content.items():
        begin, end = f"<!-- generated: {mark} -->", f"<!-- end: {mark} -->"
        pattern = rf"{re.escape(begin)}.*?{re.escape(end)}"
        new = f"{begin}\n{part}\n{end}"
        text, count = re.subn(pattern, lambda _, new=new: new, text, flags=re.DOTALL)
        if count != 1:
            raise UserError(f"{name}: {begin} has no {end} after it")
    return text


def parts(results: Sequence[Path], base: Path, wanted: Sequence[str]) -> dict[str, str]:
    """The content for the marks of one document.

    Args:
        results: files of measurements.
        base: the document's folder, for relative links.
        wanted: the names of its parts.
    """
    found = [read(path, base) for path in results]
    content = {}
    for name in wanted:
        # Each call of this stage has other parts.
        every = [each for each in found if kind(each.data) == "gpu all"]
        if name == "headline":
            of = _latest(found, "overhead")
            content[name] = tables.headline(of, COMMANDS[name], every)
        elif name == "gpu":
            stages = {stage: _latest(found, f"gpu {stage}") for stage in STAGES}
            content[name] = tables.gpu({"all": every, **stages})
        elif name == "evidence":
            of_suite = _latest(found, "suite evidence")
            content[name] = experiments.suite(of_suite, COMMANDS[name])
        elif name == "ablations":
            names = sorted(path.stem for path in FILES.glob("ablations-*.toml"))
            each = [x for which in names for x in _latest(found, f"suite {which}")]
            content[name] = experiments.suites(each, names)
        elif name == "compiled":  # before a change and after it, so not only the last
            counts = [each for each in found if kind(each.data) == name]
            content[name] = tables.compiled(counts, COMMANDS[name])
        else:
            write = {
                "overhead": tables.overhead,
                "beside": speed.beside,
                "start": speed.start,
                "throughput": speed.throughput,
            }[name]
            content[name] = write(_latest(found, name), COMMANDS[name])
    return content


def measurements(folder: Path) -> list[Path]:
    """All result files below a folder that are marked as a measurement or a count.

    Raises:
        UserError: a file is not JSON.
    """
    found = []
    for path in sorted(folder.rglob("*.json")):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path}: not JSON ({error})") from None
        if isinstance(data, dict) and data.get("what") in WHAT:
            found.append(path)
    return found


def read(path: Path, base: Path) -> Result:
    """Read a result file, with links relative to the folder `base`."""
    data = json.loads(path.read_text(encoding="utf-8"))
    link = Path(os.path.relpath(path.resolve(), base.resolve()))
    picture = path.with_suffix(".png").is_file()
    seen = link.with_suffix(".png").as_posix() if picture else None
    return Result(link.as_posix(), data, seen)


def kind(data: Any) -> str | None:
    """Which benchmark wrote a result, from its keys; None if unknown."""
    holds: Callable[..., bool] = lambda *keys: all(key in data for key in keys)
    if holds("stage", "parts"):
        return f"gpu {data['stage']}"
    if holds("model", "rows"):
        return "compiled"
    if holds("shape", "baseline_seconds", "rows"):
        return "overhead"
    if holds("updates", "seeds", "loop"):
        return "throughput"
    if holds("rounds", "rows", "imagination_length"):
        return "beside"
    if holds("starts"):
        return "start"
    if holds("suite", "runs", "aggregates"):
        return f"suite {data['suite']}"
    return None


def _latest(found: Sequence[Result], name: str) -> list[Result]:
    """The latest result of one kind per machine and size; small models first."""
    latest: dict[tuple[str, int], Result] = {}
    for result in sorted(found, key=lambda each: each.data["provenance"]["date"]):
        if kind(result.data) == name:
            machine = result.data["provenance"]["machine"]
            size = result.data.get("shape", result.data).get("size")
            order = list(SIZES).index(size) if size else 0
            known = {key: machine.get(key) for key in ("cpu", "cores", "devices")}
            latest[json.dumps(known, sort_keys=True), order] = result
    return [latest[key] for key in sorted(latest)]


def _parser() -> Parser:
    parser = Parser(
        "readme",
        description="Write the documentation's tables from the committed results.",
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 on a difference"
    )
    parser.add_argument(
        "--root", type=Path, default=ROOT, metavar="DIR", help="repository root"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
