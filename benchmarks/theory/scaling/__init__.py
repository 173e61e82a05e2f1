"""Error of a learned model against its number of samples."""
