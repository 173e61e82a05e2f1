"""Encoder errors and the expansion of the loss."""
