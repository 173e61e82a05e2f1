"""On which devices a run's arrays and agents live."""
