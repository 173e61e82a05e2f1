"""The theory of the three papers as functions: bounds, allocation, noise, smoothing.

Needs jax and scipy alone. Each module says which statement it implements, what the
paper prints and, where the two differ, what is true.
"""
