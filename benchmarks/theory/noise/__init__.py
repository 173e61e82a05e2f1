"""Learning from noisy rewards."""
