"""Tasks of the DeepMind control suite, one file a domain."""
