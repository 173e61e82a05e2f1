"""Tasks of the DeepMind Control Suite, one file per domain."""
