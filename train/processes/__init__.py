"""Several processes as one run, and the signals that stop it."""
