"""Tightness of the return-error bounds (Section 3.1)."""
