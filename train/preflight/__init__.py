"""Checks, decisions and messages before anything compiles."""
