"""Measurements on an NVIDIA GPU, one module for each stage."""
