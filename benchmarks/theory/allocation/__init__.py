"""Splitting a sample budget between dynamics and reward (Section 4.2)."""
