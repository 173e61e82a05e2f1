"""Tables for the terminal."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text


def text_table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    left: int = 1,
    indent: int = 0,
) -> str:
    """A table in aligned columns, as plain text without wrapping.

    Args:
        head: column names; may contain line breaks.
        rows: cells.
        left: number of left-aligned columns; the others are right-aligned.
        indent: spaces before each line.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, name in enumerate(head):
        side = "left" if place < left else "right"
        table.add_column(Text(name), justify=side, no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(width=10_000, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    margin = " " * indent
    return "\n".join(f"{margin}{s}".rstrip() for s in capture.get().splitlines())
