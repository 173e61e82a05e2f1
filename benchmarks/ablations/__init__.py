"""GPLD's Figure 5 and further ablations, as suites of runs."""
