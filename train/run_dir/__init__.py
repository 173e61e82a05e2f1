"""A run's directory: its lock, its configuration, and no links that lead out of it."""
