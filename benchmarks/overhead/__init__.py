"""The whole train step with the penalty and without it."""
