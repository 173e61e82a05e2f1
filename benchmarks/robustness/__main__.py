"""How robust trained agents are: perturbed observations, physics and latent states.

    python -m benchmarks.robustness --run DIR [DIR ...] --json out.json --png out.png

The grids of "Towards Unraveling and Improving Generalization in World Models" for any
agents of one task, in the layout of its tables, with its numbers beside where there are
any; its Figure 1. Then the surface: gravity x mass x friction x motor gain x sensor
noise (x latent error) over all checkpoints and seeds of the runs, and whether agents
with smoother maps lose less of their return. All agents and all conditions are one
compiled program. Runs that differ only in their seed are one arm.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cli import Parser, command, count, publish, save_figure
from benchmarks.robustness.draw import draw
from benchmarks.robustness.kinds import Kind, kinds_of
from benchmarks.robustness.known import check, joined, read_known
from benchmarks.robustness.play import (
    Agents,
    Player,
    Trials,
    block_size,
    norms,
    play_kinds,
    read_agents,
)
from benchmarks.robustness.report import tables
from benchmarks.robustness.strips import draw_strips, make_strips
from benchmarks.robustness.surface import (
    AXES,
    LAYOUT,
    QUICK_AXES,
    Surface,
    summarize,
    surface_of,
)
from train.errors import UserError
from train.preflight import setup


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, 2 for a user error."""
    return command(_parser(), _run, argv)


def _parser() -> Parser:
    parser = Parser("robustness", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--run", nargs="+", type=Path, metavar="DIR", required=True)
    parser.add_argument(
        "--known",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="results of earlier calls: their agents stand beside those of --run",
    )
    parser.add_argument(
        "--episodes",
        type=count,
        default=5,
        help="trials of every agent under every condition (default: the paper's 5)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the episodes")
    parser.add_argument(
        "--only", choices=("grids", "surface"), help="leave the other part out"
    )
    parser.add_argument(
        "--axis",
        action="append",
        type=_axis,
        default=[],
        metavar="NAME=LEVEL,...",
        help="levels of an axis of the surface, the unchanged one first: factors of "
        f"{', '.join(list(AXES)[:4])}, variances of noise, latent. Defaults: "
        + "; ".join(f"{k}={','.join(f'{x:g}' for x in v)}" for k, v in AXES.items()),
    )
    parser.add_argument(
        "--changed-axes",
        type=count,
        metavar="N",
        help="of the surface, only the conditions in which at most N axes are changed, "
        "e.g. 2 where all combinations take too long (default: all combinations)",
    )
    parser.add_argument(
        "--max-decisions",
        type=count,
        metavar="N",
        help="stop every trial after N decisions (default: whole episodes)",
    )
    parser.add_argument(
        "--strips",
        type=Path,
        metavar="OUT",
        help="of runs from pixels: draw open-loop reconstructions under latent errors "
        "to this file (Figures 7 and 8)",
    )
    parser.add_argument(
        "--copies", type=count, default=8, help="environments for the norms"
    )
    parser.add_argument(
        "--decisions", type=count, default=200, help="decisions of each for the norms"
    )
    parser.add_outputs(quick="2 episodes, few levels, the last checkpoints only")
    return parser


def _axis(text: str) -> tuple[str, tuple[float, ...]]:
    name, _, words = text.partition("=")
    try:
        levels = tuple(float(word) for word in words.split(","))
    except ValueError:
        levels = ()
    low = 0.0
    positive = name in ("mass", "friction")
    fits = all(low <= x < float("inf") and not (positive and x == 0) for x in levels)
    if name not in AXES or not levels or not fits:
        raise argparse.ArgumentTypeError(
            f"{text}: allowed: NAME=LEVEL,... with a name of {', '.join(AXES)} and "
            "levels >= 0 (mass and friction > 0)"
        )
    return name, levels


def _run(options: argparse.Namespace) -> int:
    if options.quick:
        options.episodes, options.copies, options.decisions = 2, 2, 10
    known = [read_known(path) for path in options.known]
    setup.enable_compilation_cache()
    agents = read_agents(options.run, last_only=options.quick)
    kinds = []
    if options.only != "surface":
        kinds = kinds_of(agents.env, quick=options.quick)
    surface = _plan_surface(agents, options)
    result = _plan(agents, kinds, surface, options)
    for each in known:
        check(each, result)
    trials = Trials(options.episodes, options.seed, options.max_decisions)
    counts = [len(kind.keys) for kind in kinds]
    counts = [sum(counts) - len(counts) + 1] * bool(counts)
    counts += [len(surface.grid)] if surface else []
    block = block_size(agents.env, options.episodes, counts=counts)
    player, final = Player(agents, trials, block=block), agents.final()
    played = play_kinds(player, final, kinds) if kinds else []
    for kind, returns in zip(result["kinds"], played, strict=True):
        kind["returns"] = returns.tolist()
    if surface is not None:
        returns = player(
            agents, surface.conditions, said="agents played in the surface"
        )
        found = norms(
            agents,
            copies=options.copies,
            decisions=options.decisions,
            seed=options.seed,
        )
        means = returns.mean(-1, dtype=np.float64)
        result["surface"] = summarize(result["surface"], agents.who, means, found)
    result = joined(result, known)
    strips = []
    if options.strips is not None:
        strips = make_strips(final, seed=options.seed)
        result["open_loop_errors"] = {x.label: x.error for x in strips if x.error}
    publish(options, result, tables(result), lambda: draw(result))
    if options.strips is not None:
        save_figure("--strips", options.strips, draw_strips(strips))
    return 0


def _plan(
    agents: Agents,
    kinds: Sequence[Kind],
    surface: Surface | None,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """The result before anything is played: who, and under which conditions."""
    return {
        "task": agents.config.env,
        "obs": agents.config.obs,
        "episodes": options.episodes,
        "max_decisions": options.max_decisions,
        "seed": options.seed,
        "copies": options.copies,
        "decisions": options.decisions,
        "eval_policy": agents.config.eval_policy,
        "arms": list(agents.arms),
        "settings": {label: arm._asdict() for label, arm in agents.arms.items()},
        "final": [one._asdict() for one in agents.final().who],
        "kinds": [
            {
                "name": kind.name,
                "levels": [x if np.isfinite(x) else None for x in kind.levels],
                "keys": list(kind.keys),
            }
            for kind in kinds
        ],
        "surface": surface and {name: getattr(surface, name) for name in LAYOUT},
    }


def _plan_surface(agents: Agents, options: argparse.Namespace) -> Surface | None:
    """What is played of the surface; None with `--only grids`."""
    if options.only == "grids":
        return None
    axes = dict(QUICK_AXES if options.quick else AXES) | dict(options.axis)
    surface = surface_of(agents.env, axes, changed=options.changed_axes)
    for name, why in surface.left_out.items():
        print(f"the surface has no axis {name}: {why}", flush=True)
    if len(surface.grid) < 2:
        raise UserError(
            f"--axis: {agents.config.env} has one condition only; allowed: two levels "
            f"of some of {', '.join(surface.axes)}, or --only grids"
        )
    size = f"{len(surface.grid)} conditions, {len(agents.who)} agents"
    print(f"surface: {size}", flush=True)
    return surface


if __name__ == "__main__":
    sys.exit(main())
