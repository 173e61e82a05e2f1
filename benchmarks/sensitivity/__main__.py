"""Sensitivity of posterior and prior to small perturbations of their inputs.

    python -m benchmarks.sensitivity RUN_DIR [RUN_DIR ...]

GPLD, Appendix F and Figure 9. For each saved agent of a run (`train.main --keep-every`)
this collects trajectories and averages KL divergence / perturbation norm over states
and perturbations of .1 to 10 % of the mean input norm: of e for the posterior, of h for
the prior. It also gives the exact Jacobian norms, which the paper's penalty estimates.
With --along it draws class probabilities, as they change with the embedding. Runs that
differ only in their seed are one arm.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from benchmarks.cli import Parser, count, publish, save_figure
from benchmarks.curves.arms import group_runs
from benchmarks.measure.tables import text_table
from benchmarks.sensitivity.along import Line, along
from benchmarks.sensitivity.along import draw as draw_lines
from benchmarks.sensitivity.measure import MAGNITUDES, make_measure, make_visit
from train.checkpoint.saved_agents import saved_steps
from train.errors import UserError, guarded
from train.preflight import setup
from train.rollout.scores import load_agents
from train.run_dir.record import read_run

Row = dict[str, Any]
PARTS = ("posterior", "prior")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, 2 for a user error."""
    return guarded(lambda: _run(_parser().parse_args(argv)))


def _parser() -> Parser:
    parser = Parser("sensitivity", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN_DIR")
    parser.add_argument(
        "--copies", type=count, default=8, help="environments (default: 8)"
    )
    parser.add_argument(
        "--decisions",
        type=count,
        default=500,
        help="decisions per environment (default: 500)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the trajectories")
    parser.add_argument(
        "--along",
        type=Path,
        metavar="PNG",
        help="instead, draw the class probabilities of the latest agents along a line "
        "of embeddings, from one visited state",
    )
    parser.add_outputs(quick="2 environments, 10 decisions, the latest agents only")
    return parser


def _run(options: argparse.Namespace) -> int:
    if options.quick:
        options.copies, options.decisions = 2, 10
    setup.enable_compilation_cache()
    if options.along is not None:
        draw_along(options)
        return 0
    rows: list[Row] = []
    measures: dict[Any, Any] = {}
    for label, members in group_runs(options.run_dirs):
        for run_dir in members:
            rows += _measure_run(run_dir, label, options, measures)
    result = {
        "magnitudes": MAGNITUDES,
        "states": options.copies * options.decisions,
        "rows": rows,
    }
    publish(options, result, table(rows), lambda: draw(rows))
    return 0


def draw_along(options: argparse.Namespace) -> None:
    """Draw `along.Line` of the first agent of every run.

    Raises:
        UserError: another output was asked for, or z has no classes.
    """
    if options.json or options.png:
        raise UserError(f"--along {options.along}: not together with --json and --png")
    lines: dict[str, Line] = {}
    visit_key, line_key = jax.random.split(jax.random.key(options.seed))
    for label, members in group_runs(options.run_dirs):
        config = read_run(members[0])
        if config.latent.family != "categorical":
            raise UserError(
                f"{members[0]}: has --latent {config.latent.family}, without class "
                "probabilities; allowed with --along: --latent categorical"
            )
        env = setup.make_env(config)
        visit = make_visit(env, copies=options.copies, decisions=options.decisions)
        _, agents = load_agents(members[0], config, env, None)
        found = jax.jit(
            lambda agent, visit=visit: along(
                agent, visit(agent, visit_key).inputs, key=line_key
            )
        )(agents[0])
        lines[label] = found
        print(f"{label}: exact ‖J‖² of the posterior {float(found.jacobian):.3g}")
    save_figure("--along", options.along, draw_lines(lines))


def _measure_run(
    run_dir: Path, label: str, options: argparse.Namespace, measures: dict[Any, Any]
) -> list[Row]:
    """A row for each saved step and agent of a run."""
    config = read_run(run_dir)
    env = setup.make_env(config)
    # Runs of one task and size share a compiled program.
    shape = (config.env, config.obs, config.action_repeat, config.size)
    if shape not in measures:
        made = make_measure(env, copies=options.copies, decisions=options.decisions)
        measures[shape] = jax.jit(made)
    steps = saved_steps(run_dir)
    if not steps:
        raise UserError(f"{run_dir}: has no saved agent; allowed: a run with one")
    rows = []
    for step in steps[-1:] if options.quick else steps:
        _, agents = load_agents(run_dir, config, env, step)
        for index, agent in enumerate(agents):
            found = measures[shape](agent, jax.random.key(options.seed))
            rows.append(
                {
                    "arm": label,
                    "run": run_dir.name,
                    "task": config.env,
                    "seed": config.seed + index,
                    "step": step,
                    "kl": {part: np.asarray(found.kl[part]).tolist() for part in PARTS},
                    "jacobian": {part: float(found.jacobian[part]) for part in PARTS},
                }
            )
    return rows


def summary(rows: Sequence[Row]) -> list[Row]:
    """Mean and standard deviation over seeds per arm and step; KL also averaged over
    magnitudes."""
    keys = dict.fromkeys((row["arm"], row["step"]) for row in rows)
    lines = []
    for arm, step in keys:
        found = [row for row in rows if (row["arm"], row["step"]) == (arm, step)]
        line: Row = {"arm": arm, "step": step, "agents": len(found)}
        for part in PARTS:
            kl = [float(np.mean(row["kl"][part])) for row in found]
            jacobian = [row["jacobian"][part] for row in found]
            for name, values in ((f"kl {part}", kl), (f"jacobian {part}", jacobian)):
                spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
                line[name] = (float(np.mean(values)), spread)
        lines.append(line)
    return lines


def table(rows: Sequence[Row]) -> str:
    """One row per arm, at its last step."""
    last: dict[str, Row] = {}
    for line in summary(rows):
        if line["step"] >= last.get(line["arm"], line)["step"]:
            last[line["arm"]] = line
    names = [f"{what} {part}" for what in ("kl", "jacobian") for part in PARTS]
    cells = [
        [
            line["arm"],
            f"{line['step']:,}",
            str(line["agents"]),
            *(f"{line[name][0]:.3g} ± {line[name][1]:.1g}" for name in names),
        ]
        for line in last.values()
    ]
    return text_table(["arm", "step", "agents", *names], cells)


def draw(rows: Sequence[Row]) -> Figure:
    """The paper's Figure 9, and below it the exact Jacobian norms."""
    figure = Figure(figsize=(9, 6.5), layout="constrained", dpi=150)
    panels = figure.subplots(2, 2, sharex=True)
    lines = summary(rows)
    for panel, what in zip(panels, ("kl", "jacobian"), strict=True):
        for axes, part in zip(panel, PARTS, strict=True):
            for arm in dict.fromkeys(line["arm"] for line in lines):
                mine = sorted(
                    (line for line in lines if line["arm"] == arm),
                    key=lambda line: line["step"],
                )
                points = [line[f"{what} {part}"] for line in mine]
                means, spreads = zip(*points, strict=True)
                steps = [line["step"] for line in mine]
                count = max(line["agents"] for line in mine)
                axes.errorbar(
                    steps,
                    means,
                    spreads,
                    marker="o",
                    capsize=3,
                    label=f"{arm}, n={count}",
                )
            unit = "KL / ‖δ‖ (nats)" if what == "kl" else "exact ‖J‖² of a categorical"
            axes.set_title(f"{part}: {unit}", fontsize="medium")
            axes.set_yscale("log")
            axes.grid(alpha=0.3)
    for axes in panels[1]:
        axes.set_xlabel("environment steps")
    panels[0][0].legend(fontsize="x-small")
    return figure


if __name__ == "__main__":
    sys.exit(main())
