"""Checkpoints: arrays on disk, whole or absent."""
