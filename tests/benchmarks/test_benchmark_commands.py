"""The commands that committed results name can be given today."""

import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = sorted((ROOT / "benchmarks" / "results").rglob("*.json"))
MOVED = {
    "benchmarks.env_parity": "benchmarks.environments.parity",
    "benchmarks.env_throughput": "benchmarks.environments.throughput",
    "benchmarks.op": "benchmarks.overhead.op",
    "benchmarks.render": "benchmarks.environments.render",
    "benchmarks.soak": "benchmarks.throughput.soak",
}
"""Commands that were renamed after results had been made with them."""


def commands(part: Any) -> Iterator[str]:
    """All `command` fields inside."""
    if isinstance(part, dict):
        for name, value in part.items():
            if name == "command" and isinstance(value, str):
                yield value
            else:
                yield from commands(value)
    elif isinstance(part, list):
        for value in part:
            yield from commands(value)


def declared(flag: str) -> str:
    """How source declares a flag: to argparse, or as the field of a dataclass."""
    name = flag.removeprefix("--").replace("-", "_")
    return rf'"{flag}"|(?m:^    {name}: )'


def unknown(command: str) -> list[str]:
    """Modules and flags of a command that the code does not have."""
    words = shlex.split(command)
    if Path(words[0]).name == "pytest":  # the installed command
        words = ["python", "-m", "pytest", *words[1:]]
    assert words[:2] == ["python", "-m"]
    module = MOVED.get(words[2], words[2])
    if module == "pytest":
        # Test files may have moved within tests/ since the result was made.
        files = [word for word in words if word.endswith(".py")]
        tests = ROOT / "tests"
        return [word for word in files if not any(tests.rglob(Path(word).name))]
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return [module]
    origin = Path(spec.origin)
    package = spec.submodule_search_locations is not None
    files = list(origin.parent.rglob("*.py")) if package else [origin]
    if module.startswith("benchmarks."):
        files.append(ROOT / "benchmarks" / "cli.py")  # what all of them take
    source = "".join(file.read_text(encoding="utf-8") for file in files)
    for whose in re.findall(r"from benchmarks\.(\w+) import __main__", source):
        # A command that passes its flags on to another one's.
        inside = (ROOT / "benchmarks" / whose).rglob("*.py")
        source += "".join(file.read_text(encoding="utf-8") for file in inside)
    own = words[3 : words.index("--")] if "--" in words else words[3:]
    given = [word.partition("=")[0] for word in own if word.startswith("--")]
    return [flag for flag in given if not re.search(declared(flag), source)]


def test_unknown_words_are_found():
    assert unknown("python -m benchmarks.no_such --json x") == ["benchmarks.no_such"]
    assert unknown("python -m benchmarks.curves a --pgn x --png y") == ["--pgn"]
    assert unknown("python -m benchmarks.ablations rho --foldr x") == ["--foldr"]
    assert unknown("python -m pytest tests/no_such.py") == ["tests/no_such.py"]
    assert unknown(".venv/bin/pytest tests/no_such.py") == ["tests/no_such.py"]


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_the_commands_of_a_result_can_be_given(path):
    for command in commands(json.loads(path.read_text(encoding="utf-8"))):
        assert unknown(command) == []
