"""MuJoCo models as environments, simulated by MJX."""
