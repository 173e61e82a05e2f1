"""The Jacobian-regularization paper end to end: runs, grids, surface, theorems' terms.

    python -m benchmarks.robustness.study --folder runs/robustness-quick

For the agents of a suite, by default `robustness-quick`: no penalty and that of the
recurrent map, each with and without a latent error, some ten minutes of processor time.
It starts three commands one after another, and prints each so that it can be given
alone, with other flags:

    benchmarks.suite         trains the agents of all arms
    benchmarks.robustness    grids, surface and Jacobian norms of all of them
    benchmarks.trust         of one agent an arm: the expansion of the return under
                             latent errors, the divergence of Theorem 4.1, the growth of
                             Phi with the corrected bound (18), the Hessian's trace

Stopped or killed, the same command goes on. Tables are printed, and written with the
pictures to the folder.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.cli import Parser, command
from benchmarks.suite.declare import Suite, load
from benchmarks.suite.place import Place

SUITE = "robustness-quick"
SMALL = {
    "robustness": "--episodes 3 --changed-axes 2 --copies 4 --decisions 50",
    "trust": "--quick",
}
"""Of the suite `robustness-quick`; of any other the commands' defaults are taken."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code, that of the first command that fails."""
    return command(_parser(), _run, argv)


def _parser() -> Parser:
    parser = Parser("robustness.study", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--folder", type=Path, required=True, metavar="DIR", help="where all of it goes"
    )
    parser.add_argument(
        "--suite",
        default=SUITE,
        metavar="NAME|FILE.toml",
        help=f"what is trained (default: {SUITE}; larger: robustness, "
        "robustness-latent and others)",
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    suite = load(options.suite)
    for words in commands(suite, options.suite, options.folder):
        print(f"\n$ python -m {shlex.join(words)}", flush=True)
        code = subprocess.run([sys.executable, "-m", *words], check=False).returncode
        if code:
            return code
    return 0


def commands(suite: Suite, name: str, folder: Path) -> Iterator[list[str]]:
    """What follows `python -m`: the suite, then two commands for each of its tasks."""
    outputs = lambda stem: [
        *("--json", str(folder / f"{stem}.json")),
        *("--png", str(folder / f"{stem}.png")),
    ]
    yield ["benchmarks.suite", name, "--folder", str(folder), *outputs("suite")]
    for task in suite.tasks:
        cells = [cell for cell in suite.cells() if cell.task == task]
        runs = {cell: str(Place.of(folder, cell).run_dir) for cell in cells}
        small = {tool: SMALL[tool].split() if name == SUITE else [] for tool in SMALL}
        yield [
            *("benchmarks.robustness", "--run", *runs.values()),
            *small["robustness"],
            *outputs(f"robustness-{task}"),
        ]
        first, *others = [
            run for cell, run in runs.items() if cell.seed == suite.seeds[0]
        ]
        yield [
            *("benchmarks.trust", "--run", first),
            *(["--compare", *others] if others else []),
            *small["trust"],
            *outputs(f"trust-{task}"),
        ]


if __name__ == "__main__":
    sys.exit(main())
