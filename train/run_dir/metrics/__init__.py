"""What a run logs: JSON lines, TensorBoard, and the progress in the terminal."""
