"""Environments from MuJoCo models, simulated by MJX."""
