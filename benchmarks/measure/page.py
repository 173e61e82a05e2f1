"""A report as one HTML page that needs no other file and no network.

    text = page("Title", [
        Section("Scores", ["What they are.", Table(["arm", "return"], rows)]),
        Section("Curves", [Picture(figure, "Return against steps.")]),
        provenance_section(provenance()),
    ])

All text is escaped: names of runs and tasks come from files. Pictures are data URIs,
and the page's own content security policy forbids the browser to load anything else.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure

_KINDS = {
    b"GIF8": "image/gif",
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"<svg": "image/svg+xml",
}
"""First bytes of the files that a picture may be, and their media types."""

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { line-height: 1.2; } h2 { margin-top: 2.5rem; } nav a { margin-right: 1.2em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .25rem .8rem; border-bottom: 1px solid var(--line); }
th { text-align: left; vertical-align: bottom; background: var(--soft); }
td:first-child { min-width: 12rem; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
td.n { white-space: nowrap; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; }
figcaption { font-size: .9rem; opacity: .8; }
.films { display: flex; flex-wrap: wrap; gap: 1rem; } .films figure { margin: 0; }
pre { overflow-x: auto; padding: .8rem; background: var(--soft); font-size: .85rem; }
summary { font-size: 1.5rem; font-weight: bold; margin-top: 2.5rem; cursor: pointer; }
@media (prefers-color-scheme: dark) {
  .plot { filter: invert(.92) hue-rotate(180deg); } }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Table:
    """A table of text.

    Args:
        head: names of the columns.
        rows: cells, as many in each row as there are columns.
        left: number of left-aligned columns; the others are right-aligned.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1


@dataclass(frozen=True)
class Code:
    """Text shown as it is, in a fixed-width font."""

    text: str


@dataclass(frozen=True)
class Picture:
    """A plot (drawn as SVG), or the bytes of a GIF, PNG, JPEG or SVG file.

    Args:
        image: the picture.
        caption: shown below it, and read out in its place.
    """

    image: Figure | bytes
    caption: str


@dataclass(frozen=True)
class Films:
    """Pictures side by side."""

    films: Sequence[Picture]


Part = str | Table | Code | Picture | Films
"""A part of a section; a `str` is a paragraph."""


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it.

    Args:
        title: the heading.
        parts: in order.
        folded: show the heading alone until it is clicked.
    """

    title: str
    parts: Sequence[Part]
    folded: bool = False


def page(title: str, sections: Sequence[Section], *, intro: str = "") -> str:
    """The HTML text of a page.

    Args:
        title: of the page and of the browser's tab.
        sections: in order; sections without parts are left out.
        intro: a paragraph above the first section.

    Raises:
        ValueError: a picture of an unknown format, or a row of a table whose length is
            not that of its head.
    """
    sections = [section for section in sections if section.parts]
    links = [
        f'<a href="#s{index}">{html.escape(section.title)}</a>'
        for index, section in enumerate(sections)
    ]
    lines = [
        "<!doctype html>",
        '<html lang="en">',
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',
        f"<title>{html.escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        f"<h1>{html.escape(title)}</h1>",
        _part(intro) if intro else "",
        f"<nav>{' '.join(links)}</nav>" if len(links) > 1 else "",
        *(_section(index, section) for index, section in enumerate(sections)),
        "</html>",
    ]
    return "\n".join(filter(None, lines)) + "\n"


def provenance_section(
    record: Mapping[str, Any], title: str = "How this page was made"
) -> Section:
    """Date, commit, machine, versions and command, folded.

    Args:
        record: from `train.run_dir.provenance.provenance`, or a line of a run's
            `starts.jsonl`.
        title: the heading.
    """
    commit = str(record.get("commit") or "unknown")
    machine = record.get("machine") or {}
    versions = record.get("versions") or {}
    changed = " with uncommitted changes" if record.get("modified") else ""
    rows = [
        ["date", str(record.get("date", "unknown"))],
        ["commit", commit + changed],
        *([name, _plain(value)] for name, value in machine.items()),
        ["versions", ", ".join(f"{name} {x}" for name, x in versions.items())],
    ]
    command = record.get("command")
    parts: list[Part] = [Table(["", ""], rows, left=2)]
    if command:
        parts.append(Code(str(command)))
    return Section(title, parts, folded=True)


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _section(index: int, section: Section) -> str:
    title, body = html.escape(section.title), "\n".join(map(_part, section.parts))
    if section.folded:
        head = f'<details id="s{index}"><summary>{title}</summary>'
        return f"{head}\n{body}\n</details>"
    return f'<section id="s{index}"><h2>{title}</h2>\n{body}\n</section>'


def _part(part: Part) -> str:
    match part:
        case Table():
            return _table(part)
        case Code(text):
            return f"<pre>{html.escape(text)}</pre>"
        case Picture():
            return _picture(part)
        case Films(films):
            return f'<div class="films">{"".join(map(_picture, films))}</div>'
        case text:
            return f"<p>{html.escape(text)}</p>"


def _table(table: Table) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        if len(cells) != len(table.head):
            raise ValueError(
                f"rows: {list(cells)} has {len(cells)} cells; expected "
                f"{len(table.head)}, one for each name of {list(table.head)}"
            )
        opened = [
            tag if i < table.left else f"{tag} class=n" for i in range(len(cells))
        ]
        made = zip(opened, cells, strict=True)
        text = "".join(f"<{x}>{html.escape(cell)}</{tag}>" for x, cell in made)
        return f"<tr>{text}</tr>"

    head = f"<thead>{row(table.head, 'th')}</thead>" if any(table.head) else ""
    body = "\n".join(row(cells, "td") for cells in table.rows)
    return f'<div class="wide"><table>{head}<tbody>\n{body}\n</tbody></table></div>'


def _picture(picture: Picture) -> str:
    drawn = isinstance(picture.image, Figure)
    data = _svg(picture.image) if isinstance(picture.image, Figure) else picture.image
    kind = next((x for start, x in _KINDS.items() if data.startswith(start)), None)
    if kind is None:
        raise ValueError(
            f"image: bytes that begin with {data[:8]!r}; expected a GIF, PNG, JPEG or "
            "SVG file, or a Figure"
        )
    caption = html.escape(picture.caption)
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    plot = ' class="plot"' if drawn else ""
    image = f'<img{plot} src="{source}" alt="{caption}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _svg(figure: Figure) -> bytes:
    """The figure as an SVG element; the same figure always gives the same bytes."""
    text = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "page"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    # Without the document type, whose address no reader needs.
    return b"<svg" + text.getvalue().partition(b"<svg")[2]
