"""The placement of arrays and agents on devices."""
