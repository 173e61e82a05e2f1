"""The penalty through the Gram matrix of the first layer, in plain JAX."""
