"""Measurements of this project, each a module to run with `python -m`.

`python -m benchmarks` lists them.
"""

BENCHMARKS = {
    "curves": "learning curves of finished or running runs, as a picture and as JSON",
}
"""What each module measures. A benchmark is a file here and its line above."""
