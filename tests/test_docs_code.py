"""docs/code.md: every file of the table exists and defines the names beside it."""

import ast
import pathlib
import re
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "code.md").read_text("utf-8")


def rows() -> list[tuple[list[str], list[str]]]:
    """Files and names of each row; a row without either would be an empty list."""
    cells = [
        line.split("|")[1:-1] for line in PAGE.splitlines() if line.startswith("| ")
    ]
    quoted = lambda cell: re.findall(r"`([^`]+)`", cell)
    return [(quoted(files), quoted(names)) for _, files, names in cells[1:]]


def defined(tree: ast.AST, prefix: str = "") -> Iterator[str]:
    """Functions, classes, their methods, and module-level names."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield prefix + node.name
        elif isinstance(node, ast.ClassDef):
            yield prefix + node.name
            yield from defined(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.Assign):
            yield from (x.id for x in node.targets if isinstance(x, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


@pytest.mark.parametrize(("files", "names"), rows(), ids=str)
def test_files_define_the_names(files, names):
    assert files and names
    inside = {
        file: set(defined(ast.parse((ROOT / file).read_text("utf-8"))))
        for file in files
    }
    missing = [name for name in names if not any(name in x for x in inside.values())]
    assert not missing, f"docs/code.md: {missing} not in {files}"
    idle = [file for file, found in inside.items() if not found & set(names)]
    assert not idle, f"docs/code.md: {idle} define none of {names}"


@pytest.mark.parametrize(
    "asked",
    [
        "model's equations",
        "posterior",
        "penalty, forward",
        "penalty, backward",
        "losses are weighted",
        "λ decays",
        "enters the replay buffer",
        "NaN",
        "adding a task",
        "adding a penalty target",
        "adding a benchmark",
    ],
)
def test_a_newcomers_questions_have_a_row(asked):
    assert re.search(rf"^\| [^|]*{re.escape(asked)}", PAGE, flags=re.MULTILINE)


def test_the_page_is_one_screen():
    assert len(PAGE.splitlines()) <= 45
    assert len(rows()) > 15
