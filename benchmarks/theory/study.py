"""What a study gives back: its tables, its numbers, its picture."""

from collections.abc import Callable
from typing import Any, NamedTuple

from matplotlib.figure import Figure, SubFigure

Progress = Callable[[float], None]
"""Called by a study with the fraction of its work that is done, from 0 to 1."""


class Study(NamedTuple):
    """The findings of one study.

    Attributes:
        tables: what to print in the terminal, the paper's figures beside ours.
        entries: the same as JSON: finite numbers, strings, lists and dicts.
        draw: draws the study into a figure (or a part of one).
    """

    tables: str
    entries: dict[str, Any]
    draw: Callable[[Figure | SubFigure], None]
