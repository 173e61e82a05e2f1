"""Environments around code of another's making, and the checks of what it returns."""
