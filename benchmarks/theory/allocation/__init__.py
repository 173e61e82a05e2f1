"""Samples between dynamics and reward."""
