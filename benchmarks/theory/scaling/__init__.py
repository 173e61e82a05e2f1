"""Scaling laws: error of a learned model against training-set size (Section 4.1)."""
