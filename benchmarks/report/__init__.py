"""One HTML page about finished or running runs."""
