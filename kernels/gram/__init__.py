"""The penalty by the Gram matrix of the first layer, in plain JAX."""
