"""Training: configuration, replay, compiled programs, loop, logs, checkpoints."""

import sys

# Before any module is read that another version would call a syntax error, or that
# lacks a dependency there.
if sys.version_info[:2] != (3, 12):
    _found = ".".join(map(str, sys.version_info[:2]))
    _line = f"smooth-dreamer needs Python 3.12, and this is {_found}: try `uv run`"
    if sys.argv[:1] == ["-m"]:  # python -m train.main is looking for its module
        print(f"error: {_line}", file=sys.stderr)
        sys.exit(2)
    raise ImportError(_line)
