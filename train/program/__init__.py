"""What is compiled: a run's state, replay, acting, and the update."""
