"""docs/papers: each part of the papers has a row.

That the commands of the rows exist is tested by `test_docs_commands.py`.
"""

import pathlib
import re

import pytest

PAPERS = pathlib.Path(__file__).parent.parent / "docs" / "papers"
GPLD, JACREG, IMAGINATION = "gpld", "jacobian-regularization", "imagination"
PARTS = [(GPLD, f"Algorithm {number}") for number in (1, 2)]
PARTS += [(GPLD, f"Table {number}") for number in range(1, 5)]
PARTS += [(GPLD, f"Figure {number}") for number in range(1, 10)]
PARTS += [(JACREG, f"Table {number}") for number in range(1, 15)]
# Figure 2 draws no result; it stands with Theorem A.6.
PARTS += [(JACREG, f"Figure {number}") for number in range(1, 11) if number != 2]
PARTS += [(JACREG, f"Theorem {number}") for number in ("3.3", "4.1", "A.6")]
PARTS += [(JACREG, "Corollary 4.2"), (JACREG, "Proposition B.1")]
PARTS += [(IMAGINATION, f"Theorem {number}") for number in (1, 2)]
PARTS += [(IMAGINATION, f"Corollary {number}") for number in (1, 2)]
PARTS += [(IMAGINATION, f"Proposition {number}") for number in (1, 2)]
PARTS += [(IMAGINATION, f"Section {number}") for number in ("3.1", "4.1", "4.2")]
PARTS += [(IMAGINATION, "Lemma 1"), (IMAGINATION, "Definition 1")]


def read(paper: str) -> str:
    return (PAPERS / f"{paper}.md").read_text("utf-8")


@pytest.mark.parametrize(("paper", "part"), PARTS)
def test_every_part_of_a_paper_has_a_row(paper, part):
    rows = [line for line in read(paper).splitlines() if line.startswith("| ")]
    # A row of Table 14 is none of Table 1.
    found = [row for row in rows if re.match(rf"\| {re.escape(part)}\b", row)]
    assert found
    for row in found:
        cells = [cell.strip() for cell in row.split("|")[1:-1]]
        assert len(cells) == 4 and all(cells)


@pytest.mark.parametrize("paper", [GPLD, JACREG, IMAGINATION])
def test_a_page_says_what_the_paper_says_and_what_was_found(paper):
    text = read(paper)
    says, found = text.index("**What the paper says.**"), text.index("**What this pro")
    assert says < found < text.index("\n| paper | what | command | state |")
