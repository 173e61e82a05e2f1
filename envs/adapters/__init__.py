"""Environments that wrap someone else's simulator."""
