"""World models as plain Equinox modules: RSSM, heads, losses, Jacobian penalty."""
