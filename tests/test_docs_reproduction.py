"""docs/reproduction.md: each part of the papers has a row whose command exists."""

import importlib.util
import pathlib
import re

import pytest

from benchmarks.suite.declare import FILES

PAGE = (pathlib.Path(__file__).parent.parent / "docs" / "reproduction.md").read_text(
    "utf-8"
)
GPLD, JACREG = PAGE.split("## The Jacobian-regularization paper")
PARTS = [(GPLD, f"Algorithm {number}") for number in (1, 2)]
PARTS += [(GPLD, f"Table {number}") for number in range(1, 5)]
PARTS += [(GPLD, f"Figure {number}") for number in range(1, 10)]
PARTS += [(JACREG, f"Table {number}") for number in range(1, 15)]
# Figure 2 draws no result; it stands with appendix A.
PARTS += [(JACREG, f"Figure {number}") for number in range(1, 11) if number != 2]


@pytest.mark.parametrize(("section", "part"), PARTS, ids=lambda x: x[:10].strip())
def test_every_part_of_a_paper_has_a_row(section, part):
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    # A row of Table 14 is none of Table 1.
    found = [row for row in rows if re.match(rf"\| {part}\b", row)]
    assert found
    for row in found:
        cells = [cell.strip() for cell in row.split("|")[1:-1]]
        assert len(cells) == 4 and all(cells)


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
