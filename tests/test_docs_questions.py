"""What users ask is answered within two clicks from the README."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
LINK = re.compile(r"\]\(([^)#\s]+\.(?:md|ipynb))(?:#[^)\s]*)?\)")

QUESTIONS = {
    "compiling": "How long until something happens?",
    "duration": "How long does a run take?",
    "steps": "What is a step?",
    "returns": "Which return is which?",
    "determinism": "Does the same seed give the same run?",
    "differences": "Why do two runs of one seed differ?",
    "resuming": "How do I resume?",
    "memory": "It does not fit in memory.",
    "memory growth": "Does memory grow during a run?",
    "NaN": "What happens on NaN?",
    "devices": "How do I use several GPUs?",
    "environments": "In my own environment?",
    "pixels": "Can it learn from pixels?",
    "policies": "How do I load a trained policy and get actions?",
}
"""The subjects of the issues of danijar/dreamerv3, its ports, and TD-MPC2."""


def links(path: pathlib.Path) -> set[pathlib.Path]:
    """The pages that a page links to."""
    found = LINK.findall(path.read_text("utf-8")) if path.suffix == ".md" else []
    here = [x for x in found if not x.startswith("http")]
    return {(path.parent / x).resolve() for x in here}


@pytest.mark.parametrize("subject", QUESTIONS)
def test_a_question_is_answered_on_the_page_of_questions(subject):
    answers = re.findall(
        r"^\*\*(.+?)\*\*((?:.|\n)+?)(?=^\*\*|^## |\Z)",
        (ROOT / "docs" / "faq.md").read_text("utf-8"),
        re.MULTILINE,
    )
    found = [text for question, text in answers if question == QUESTIONS[subject]]
    assert len(found) == 1 and len(found[0].split()) >= 10


def test_every_page_is_within_two_clicks_of_the_readme():
    first = links(ROOT / "README.md")
    assert ROOT / "docs" / "faq.md" in first
    second = first.union(*(links(page) for page in first))
    missing = [x for x in second if not x.is_file()]
    pages = {x for x in (ROOT / "docs").rglob("*.md") if x.parent.name != "api"}
    assert not missing
    assert pages - second == set()
