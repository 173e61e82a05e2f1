"""A trained policy as files that need nothing of this project."""
