"""Measurements of this project, each a module to run with `python -m`.

`python -m benchmarks` lists them.
"""

BENCHMARKS = {
    "curves": "learning curves of finished or running runs, as a picture and as JSON",
    "gpu": "the fused kernel on an NVIDIA GPU: checked, tuned, timed against floors",
    "op": "the penalty op alone: seconds and memory of each implementation",
    "overhead": "the whole train step with the penalty and without it",
}
"""What each module measures. A benchmark is a file here and its line above."""
