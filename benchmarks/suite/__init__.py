"""Many runs as one job: tasks, arms and seeds from one file, and their statistics."""
