"""Learning curves of finished or running runs."""

from benchmarks.curves.arms import read_curves as read_curves
from benchmarks.curves.draw import draw as draw
from benchmarks.curves.draw import table as table
from train.run_dir.curve import Curve as Curve
from train.run_dir.curve import Series as Series
from train.run_dir.curve import read_curve as read_curve
