"""The theory of the three papers as functions: bounds, allocation, noise, smoothing.

Depends only on jax and scipy. Each module names the statement it implements and, where
the paper's formula is wrong, gives the printed and the corrected form.
"""
