"""How a sample budget is best split between dynamics and rewards (Theorem 1)."""
