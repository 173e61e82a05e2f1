"""The result of a study: tables, numbers and a plot."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure, SubFigure

Progress = Callable[[float], None]
"""Called by a study with the completed fraction of its work, from 0 to 1."""


class Study(NamedTuple):
    """The results of one study.

    Attributes:
        tables: text for the terminal, with the paper's numbers for comparison.
        entries: the results as JSON: finite numbers, strings, lists and dicts.
        draw: plots the results into a figure or subfigure.
        configurations: a row for each configuration, for `--csv`.
    """

    tables: str
    entries: dict[str, Any]
    draw: Callable[[Figure | SubFigure], None]
    configurations: Sequence[Mapping[str, Any]] = ()
