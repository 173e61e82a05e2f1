"""The papers' theoretical experiments: `python -m benchmarks.theory STUDY [--quick]`.

Each subpackage is one study with a `run` function; `__main__` lists them.
"""
