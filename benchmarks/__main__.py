"""List the benchmarks: `python -m benchmarks`."""

from benchmarks import BENCHMARKS

for name, purpose in BENCHMARKS.items():
    print(f"python -m benchmarks.{name:<24} {purpose}")
