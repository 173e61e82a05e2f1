"""The model's two loops over time, in the layouts that train: CPU and GPU."""
