"""Tables for the terminal."""

from benchmarks.measure.tables import text_table
from benchmarks.measure.timing import Spread, bars


def test_columns_are_aligned_and_nothing_is_markup_or_cut():
    long = "x" * 300
    text = text_table(["", "a\nms"], [["[red]b", "1.5"], [long], ["c", "10.5"]])
    lines = text.splitlines()
    assert [line.split() for line in lines] == [
        ["a"],
        ["ms"],
        ["[red]b", "1.5"],
        [long],
        ["c", "10.5"],
    ]
    assert {len(line) for line in lines if line != long} == {300 + 2 + 4}
    assert text_table(["n"], [["5"]], left=0, indent=3) == "   n\n   5"


def test_no_colours_where_they_are_forced(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" not in text_table(["head"], [["cell"]])


def test_bars_reach_from_the_median_to_the_quartiles():
    spreads = [Spread(2.0, 1.5, 4.0), Spread(1.0, 1.0, 1.25)]
    assert bars(spreads) == [[0.5, 0.0], [2.0, 0.25]]
    assert spreads[0].scaled(10.0) == Spread(20.0, 15.0, 40.0)
    assert spreads[0].quartiles == "1.50-4.00"
    assert Spread(3000.0, 2700.0, 3300.0).quartiles == "2,700-3,300"
