"""GPLD's Figure 5 and further ablations, as suites of runs.

    python -m benchmarks.ablations                        list them
    python -m benchmarks.ablations rho --folder DIR       as `benchmarks.suite`, whose
                                                          flags all of them take

`rho` is `python -m benchmarks.suite ablations-rho`: each is declared in a file of
`benchmarks/suite/files`, to be copied for other tasks, another preset or more seeds.
"""

import sys
from collections.abc import Sequence

from benchmarks.suite import __main__ as suite
from benchmarks.suite.declare import FILES, load
from train.config.fields import did_you_mean
from train.errors import UserError, guarded

_PREFIX = "ablations-"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code of `benchmarks.suite`."""
    words = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _run(words))


def _run(words: list[str]) -> int:
    files = FILES.glob(f"{_PREFIX}*.toml")
    names = sorted(path.stem.removeprefix(_PREFIX) for path in files)
    if not words:
        for name in names:
            found = load(_PREFIX + name)
            print(f"{name:<10} {found.title}: {', '.join(found.arms)}")
        print("python -m benchmarks.ablations NAME --folder DIR (--help lists flags)")
        return 0
    name, *rest = words
    if name not in (*names, "-h", "--help"):
        raise UserError(
            f"NAME {name}: no ablation; allowed: {', '.join(names)}"
            f"{did_you_mean(name, names)}"
        )
    chosen = name if name.startswith("-") else _PREFIX + name
    return suite.main([chosen, *rest], program="ablations")


if __name__ == "__main__":
    sys.exit(main())
