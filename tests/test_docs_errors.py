"""docs/errors.md: each message on the page is one that the sources print."""

import ast
import functools
import pathlib
import re
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "errors.md").read_text("utf-8")
VARIES = "…"


def messages(page: str) -> list[str]:
    """The messages of the first column: pieces of code, `…` for what varies."""
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    return [
        text for row in rows for text in re.findall(r"`([^`]+)`", row.split("|")[1])
    ]


def literals(source: str) -> Iterator[str]:
    """The strings of a module, with `…` for what an f-string fills in.

    Strings that stand side by side are one, as they are for Python.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else VARIES
                for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@functools.cache
def all_literals() -> tuple[str, ...]:
    paths = [
        path
        for name in ("train", "envs", "core")
        for path in (ROOT / name).rglob("*.py")
    ]
    return tuple(x for path in paths for x in literals(path.read_text("utf-8")))


def is_printed(message: str, texts: tuple[str, ...]) -> bool:
    """Whether one string has the message's words, in this order."""
    parts = [re.escape(part) for part in message.split(VARIES)]
    return any(re.search(".*".join(parts), text, re.DOTALL) for text in texts)


@pytest.mark.parametrize("message", messages(PAGE))
def test_a_message_is_in_the_sources(message):
    assert is_printed(message, all_literals())


def test_other_words_and_another_order_are_not_found():
    source = 'raise UserError(f"--logdir {path}: in use by {holder}; " "stop it")\n'
    texts = tuple(literals(source))
    assert is_printed("--logdir …: in use by …; stop it", texts)
    assert not is_printed("--logdir …: held by …; stop it", texts)
    assert not is_printed("stop it …: in use by …", texts)
    assert not is_printed("no such message", all_literals())


def test_the_page_has_what_users_meet_most():
    assert len(messages(PAGE)) > 40
    for words in (
        "unknown flag",
        "in use by",
        "NaN or Inf",
        "--require-gpu",
        "was not saved",
    ):
        assert any(words in message for message in messages(PAGE)), words
