"""Pages that need no other file: escaped text, pictures inside, nothing loaded."""

import base64
import io
import re
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.measure.page import (
    Code,
    Films,
    Picture,
    Section,
    Table,
    page,
    provenance_section,
)
from train.run_dir.provenance import provenance

NASTY = '<script>alert("&")</script> https://example.com/x.png'


class Outline(HTMLParser):
    """The tags that are open at the end, what was named, and what would be loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        loads = ("src", "href", "srcset", "poster", "data")
        self.sources += [value for name, value in attrs if name in loads and value]

    def handle_data(self, data):
        self.words.append(data)


def gif() -> bytes:
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def figure() -> Figure:
    made = Figure(figsize=(2, 1))
    made.subplots().plot([1, 2], [3, 4], label=NASTY)
    return made


def full_page() -> str:
    parts = [NASTY, Table([NASTY, "n"], [[NASTY, "1"]]), Code(NASTY)]
    pictures = [Picture(figure(), NASTY), Films([Picture(gif(), NASTY)])]
    return page(NASTY, [Section(NASTY, parts), Section("b", pictures)], intro=NASTY)


def test_all_text_is_escaped_and_nothing_is_loaded():
    outline = Outline(full_page())
    assert "script" not in outline.tags
    assert outline.tags.count("img") == 2 and outline.tags.count("table") == 1
    # Heading, tab, introduction, link, section's heading, paragraph, cell, name, code
    # and two captions: all as they were written.
    assert sum(word == NASTY for word in outline.words) == 11
    loaded = [x for x in outline.sources if not x.startswith("#")]
    assert loaded and all(x.startswith("data:") for x in loaded)
    assert "default-src 'none'" in full_page()
    assert "url(" not in full_page() and "@import" not in full_page()


def test_pictures_are_whole():
    sources = [x for x in Outline(full_page()).sources if x.startswith("data:image")]
    kinds, data = zip(*(x.split(";base64,") for x in sources), strict=True)
    assert kinds == ("data:image/svg+xml", "data:image/gif")
    drawn, film = map(base64.b64decode, data)
    assert film == gif()
    assert drawn.startswith(b"<svg") and drawn.rstrip().endswith(b"</svg>")
    # Only names of the formats, which no reader loads.
    links = set(re.findall(rb'(?:href|src)="([^"]*)"', drawn))
    assert all(link.startswith((b"#", b"http://www.w3.org/")) for link in links)


def test_the_same_figure_is_the_same_text():
    assert full_page() == full_page()


def test_cells_are_aligned_and_empty_sections_left_out():
    rows = [["a", "b", "1"], ["c", "d", "2"]]
    text = page("t", [Section("empty", []), Section("s", [Table("xyz", rows, left=2)])])
    assert "<tr><td>c</td><td>d</td><td class=n>2</td></tr>" in text
    assert "empty" not in text and "<nav>" not in text


def test_folded_sections_and_provenance():
    text = page("t", [provenance_section(provenance(with_device=False))])
    outline = Outline(text)
    assert "details" in outline.tags and "How this page was made" in outline.words
    assert any(word.startswith("python 3.") for word in outline.words)
    # A run of an older version may lack any of it.
    assert "unknown" in page("t", [provenance_section({})])


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"rows: \['a'\] has 1 cells; expected 2"):
        page("t", [Section("s", [Table(["x", "y"], [["a"]])])])
    with pytest.raises(ValueError, match="image: bytes that begin with b'BM'"):
        page("t", [Section("s", [Picture(b"BM", "a bitmap")])])
