"""Robustness of trained agents: the Jacobian-regularization paper's tests, and more."""
