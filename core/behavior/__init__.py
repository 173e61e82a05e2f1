"""Behavior learning: imagined rollouts, λ-returns, policy and value losses."""
