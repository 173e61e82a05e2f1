"""Environments with known values: toys, LQG systems, teacher networks."""
