"""Training: configuration, replay, compiled programs, loop, logs, checkpoints."""
