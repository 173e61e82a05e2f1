"""The whole train step with and without the penalty."""
