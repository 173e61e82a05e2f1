"""Finite-difference smoothing in tabular MDPs."""
