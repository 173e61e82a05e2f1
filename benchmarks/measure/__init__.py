"""Timing, counting and tracing of compiled programs."""
