"""docs/api: the reference names what is public, and what it names exists.

That the docstrings can be read is tested by the strict build of the site (.ci/run).
"""

import importlib
import re
from pathlib import Path

import pytest

import envs

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))


def blocks(page: Path) -> list[tuple[str, list[str]]]:
    """The modules of a page, with the members that it lists."""
    text = page.read_text(encoding="utf-8")
    found = []
    for block in re.split(r"^::: ", text, flags=re.MULTILINE)[1:]:
        line = re.search(r"members: \[(.*)\]", block)
        listed = (
            line[1].split(", ") if line else re.findall(r"^ +- (\w+)$", block, re.M)
        )
        found.append((block.split()[0], listed))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_names_exists_and_is_documented(page):
    assert blocks(page)
    for name, members in blocks(page):
        module = importlib.import_module(name)
        assert module.__doc__
        for member in members:
            found = getattr(module, member)
            assert found.__doc__ or not callable(found)
    assert f": api/{page.name}\n" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


def test_all_public_names_of_envs_are_there():
    source = Path(envs.__file__ or "").read_text(encoding="utf-8")
    public = set(re.findall(r"^from \S+ import (\w+) as \1$", source, re.MULTILINE))
    ((_, listed),) = blocks(ROOT / "docs" / "api" / "envs.md")
    assert len(public) > 10 and set(listed) == public


def test_the_pages_asked_for_are_there():
    assert {page.stem for page in PAGES} >= {"kernels", "rssm", "penalty", "envs"}
    train = [name for name, _ in blocks(ROOT / "docs" / "api" / "train.md")]
    assert train == ["train.main", "train.policy"]
