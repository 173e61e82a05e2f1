"""The papers' theoretical experiments: `python -m benchmarks.theory STUDY [--quick]`.

Each module here is one study with a `run` function; `__main__` lists them.
"""
