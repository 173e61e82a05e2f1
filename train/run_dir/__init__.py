"""A run's directory: its lock and configuration, and what is logged into it."""
