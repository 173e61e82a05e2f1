"""Learning curves of finished or running runs."""

from benchmarks.curves.arms import read_curves as read_curves
from benchmarks.curves.draw import draw as draw
from benchmarks.curves.draw import table as table
from benchmarks.curves.read import Curve as Curve
from benchmarks.curves.read import Series as Series
from benchmarks.curves.read import read_curve as read_curve
