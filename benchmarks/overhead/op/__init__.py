"""The penalty op alone: time and memory."""
