"""What is decided, checked and said before anything compiles."""
