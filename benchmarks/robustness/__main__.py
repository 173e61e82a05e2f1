"""How robust trained agents are: perturbed observations, physics and latent states.

    python -m benchmarks.robustness --run DIR [DIR ...] --json out.json --png out.png

The grids of "Towards Unraveling and Improving Generalization in World Models" for any
agents of one task, in the layout of its tables, with its numbers beside where there are
any; its Figure 1. All conditions of one kind and all agents are one compiled program.
Then the surface: gravity x mass x friction x motor gain x sensor noise (x latent error)
over all checkpoints and seeds of the runs, and whether agents with smoother maps lose
less of their return. Runs that differ only in their seed are one arm.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cli import Parser, command, count, publish, save_figure
from benchmarks.robustness.correlate import correlate, paragraph, relative_drop
from benchmarks.robustness.draw import draw
from benchmarks.robustness.kinds import AXES, QUICK_AXES, kinds_of, surface_of
from benchmarks.robustness.play import Agents, norms, play, read_agents
from benchmarks.robustness.report import tables
from benchmarks.robustness.strips import draw_strips, make_strips
from train.preflight import setup


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, 2 for a user error."""
    return command(_parser(), _run, argv)


def _parser() -> Parser:
    parser = Parser("robustness", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--run", nargs="+", type=Path, metavar="DIR", required=True)
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
    setup.enable_compilation_cache()
    agents = read_agents(options.run, last_only=options.quick)
    final = agents.final()
    result: dict[str, Any] = {
        "task": agents.config.env,
        "obs": agents.config.obs,
        "episodes": options.episodes,
        "seed": options.seed,
        "eval_policy": agents.config.eval_policy,
        "arms": list(dict.fromkeys(one.arm for one in agents.who)),
        "final": [one._asdict() for one in final.who],
        "kinds": [],
        "surface": None,
    }
    given = {"episodes": options.episodes, "seed": options.seed}
    if options.only != "surface":
        for kind in kinds_of(agents.env, quick=options.quick):
            print(f"playing {len(kind.keys)} conditions of {kind.name}", flush=True)
            returns = play(final, kind.conditions, **given)
            result["kinds"].append(
                {
                    "name": kind.name,
                    "levels": [x if np.isfinite(x) else None for x in kind.levels],
                    "keys": list(kind.keys),
                    "returns": returns.tolist(),
                }
            )
    if options.only != "grids":
        result["surface"] = _surface(agents, options)
    strips = []
    if options.strips is not None:
        strips = make_strips(final, seed=options.seed)
        result["open_loop_errors"] = {x.label: x.error for x in strips if x.error}
    publish(options, result, tables(result), lambda: draw(result))
    if options.strips is not None:
        save_figure("--strips", options.strips, draw_strips(strips))
    return 0


def _surface(agents: Agents, options: argparse.Namespace) -> dict[str, Any]:
    axes = dict(QUICK_AXES if options.quick else AXES) | dict(options.axis)
    surface = surface_of(agents.env, axes)
    size = f"{len(surface.grid)} conditions x {len(agents.who)} agents"
    print(f"playing the surface: {size}", flush=True)
    trials = play(
        agents, surface.conditions, episodes=options.episodes, seed=options.seed
    )
    returns = trials.mean(-1).astype(np.float64)
    found = norms(
        agents, copies=options.copies, decisions=options.decisions, seed=options.seed
    )
    clean, drop = returns[:, 0], relative_drop(returns)
    correlations = {
        name: {
            "drop": correlate(norm, drop, agents.who),
            "drop given return": correlate(norm, drop, agents.who, given=clean),
            "return": correlate(norm, clean, agents.who),
        }
        for name, norm in found.items()
    }
    return {
        "axes": surface.axes,
        "grid": surface.grid,
        "agents": [one._asdict() for one in agents.who],
        "returns": returns.tolist(),
        "clean": clean.tolist(),
        "worst": returns.min(-1).tolist(),
        "drop": [float(x) if np.isfinite(x) else None for x in drop],
        "norms": {name: norm.tolist() for name, norm in found.items()},
        "correlations": {
            name: {what: c and c._asdict() for what, c in row.items()}
            for name, row in correlations.items()
        },
        "paragraph": paragraph(correlations),
    }


if __name__ == "__main__":
    sys.exit(main())
