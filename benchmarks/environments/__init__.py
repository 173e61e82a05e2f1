"""Environments: error against dm_control, control steps per second."""
