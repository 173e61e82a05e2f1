"""Finite-difference smoothing in tabular worlds."""
