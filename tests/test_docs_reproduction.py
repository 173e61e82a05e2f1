"""docs/reproduction.md: each part of the GPLD paper has a row whose command exists."""

import importlib.util
import pathlib
import re

import pytest

from benchmarks.suite.declare import FILES

PAGE = (pathlib.Path(__file__).parent.parent / "docs" / "reproduction.md").read_text(
    "utf-8"
)
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ")]
PARTS = ["Algorithm 1", "Algorithm 2"]
PARTS += [f"Table {number}" for number in range(1, 5)]
PARTS += [f"Figure {number}" for number in range(1, 10)]


@pytest.mark.parametrize("part", PARTS)
def test_every_part_of_the_paper_has_a_row(part):
    assert [row for row in ROWS if row.startswith(f"| {part}")]


def test_every_command_exists():
    commands = re.findall(r"`((?:benchmarks|train)\.\w+)([^`]*)`", PAGE)
    assert len(commands) > 15
    for module, rest in commands:
        assert importlib.util.find_spec(module), module
        name = rest.split()[0] if rest.split() else ""
        if module == "benchmarks.suite" and name != "":
            assert (FILES / f"{name.strip(',')}.toml").is_file(), name
        if module == "benchmarks.ablations" and name:
            assert (FILES / f"ablations-{name}.toml").is_file(), name
