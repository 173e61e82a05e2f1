"""The ray caster compared with MuJoCo's renderer: speed, segmentation and colours.

    MUJOCO_GL=osmesa python -m benchmarks.environments.render [--quick] [--json OUT]
        [--png OUT] [--sheet OUT]

Both render the same random poses at 64×64. MuJoCo renders frame by frame with its
default settings (shadows, reflections, four samples per pixel); the time includes
`update_scene`. The ray caster renders a batch. Timed in interleaved rounds, with ratios
within a round.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure

from benchmarks.cli import QUICK, Parser, command, publish, save_figure
from benchmarks.environments.render.scenes import (
    DOMAINS,
    Comparison,
    Reference,
    compare,
    load,
    random_states,
    stack_poses,
)
from benchmarks.measure.tables import text_table
from benchmarks.measure.timing import Spread, bars, interleave
from envs import perturb
from envs.render import Renderer
from envs.render.opengl import NoOpenGLError
from train.errors import UserError

QUICK_DOMAINS = ("cartpole", "finger", "walker")
FRAMES = 64
"""Minimum number of frames per round, so that a round is long enough to time."""

# The perturbations of the Jacobian-regularization paper, Table 2 (Walker).
CONDITIONS = (
    "none",
    "noise:0.5,0.35",
    "noise:0.5,0.5",
    "rotate:20",
    "rotate:30",
    "mask:50",
    "mask:75",
)


class Speed(NamedTuple):
    """Frames per second."""

    mujoco: Spread  # default settings
    plain: Spread  # MuJoCo without shadows and reflections
    ours: dict[int, Spread]  # by batch size
    ratio: dict[int, Spread]  # ours / mujoco, by batch size


def time_domain(domain: str, batches: Sequence[int], rounds: int) -> Speed:
    """Frames per second of both renderers on one domain."""
    model, camera = load(domain)
    renderer = Renderer(model, camera=camera)
    references = [
        Reference(model, camera, renderer.size, plain=plain) for plain in (False, True)
    ]
    states = random_states(model, 8)
    poses = stack_poses(renderer, states)

    def theirs(reference: Reference) -> None:
        for state in states:
            reference.draw(state)

    names = ("default", "plain")
    programs: dict[str | int, Any] = {
        name: functools.partial(theirs, reference)
        for name, reference in zip(names, references, strict=True)
    }
    for batch in batches:
        rows = jnp.arange(batch) % len(states)
        chosen = jax.tree.map(lambda x, rows=rows: x[rows], poses)
        program = jax.jit(jax.vmap(renderer.draw)).lower(chosen).compile()
        programs[batch] = functools.partial(_repeat, program, chosen, calls(batch))
    seconds = interleave(programs, rounds=rounds)
    for reference in references:
        reference.close()
    rates = {b: [calls(b) * b / s for s in seconds[b]] for b in batches}
    base, plain = ([len(states) / s for s in seconds[name]] for name in names)
    return Speed(
        mujoco=Spread.of(base),
        plain=Spread.of(plain),
        ours={batch: Spread.of(rate) for batch, rate in rates.items()},
        ratio={
            batch: Spread.of([a / b for a, b in zip(rate, base, strict=True)])
            for batch, rate in rates.items()
        },
    )


def calls(batch: int) -> int:
    """Calls per round of a program with this batch size."""
    return -(-FRAMES // batch)


def _repeat(program: Callable[[Any], Any], argument: Any, times: int) -> None:
    for _ in range(times):
        jax.block_until_ready(program(argument))


def table(found: dict[str, tuple[Comparison, Speed]]) -> str:
    """The results as text."""
    batches = list(next(iter(found.values()))[1].ours)
    head = ["", "IoU mean", "least", "labels", "|diff|", "bodies", "MuJoCo", "plain"]
    rows = [
        [
            domain,
            f"{comparison.overlap.mean():.3f}",
            f"{comparison.overlap.min():.3f}",
            f"{comparison.labels:.4f}",
            f"{comparison.difference:.2f}",
            f"{comparison.body_difference:.2f}",
            f"{speed.mujoco.median:.0f}",
            f"{speed.plain.median:.0f}",
            *(f"{speed.ours[b].median:.0f}" for b in batches),
        ]
        for domain, (comparison, speed) in found.items()
    ]
    return text_table([*head, *(f"ours x{b}" for b in batches)], rows)


def record(found: dict[str, tuple[Comparison, Speed]], poses: int) -> dict[str, Any]:
    """The result file's content."""
    rows = {}
    for domain, (comparison, speed) in found.items():
        rows[domain] = {
            "camera": load(domain)[1],
            "iou_mean": comparison.overlap.mean(),
            "iou_least": comparison.overlap.min(),
            "same_label": comparison.labels,
            "mean_absolute_difference": comparison.difference,
            "mean_absolute_difference_on_bodies": comparison.body_difference,
            "mujoco_frames_per_second": speed.mujoco._asdict(),
            "mujoco_plain_frames_per_second": speed.plain._asdict(),
            "frames_per_second": {b: s._asdict() for b, s in speed.ours.items()},
            "ratio": {b: s._asdict() for b, s in speed.ratio.items()},
        }
    return {
        "size": 64,
        "samples_per_pixel": 4,
        "poses": poses,
        "backend": jax.default_backend(),
        "domains": rows,
    }


def draw(found: dict[str, tuple[Comparison, Speed]], title: str) -> Figure:
    """Frames per second of both, by domain: points with quartiles, logarithmic."""
    size = (9, 1.6 + 0.5 * len(found))
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    axes = figure.subplots()
    batches = list(next(iter(found.values()))[1].ours)
    speeds = [speed for _, speed in found.values()]
    series = {
        "mujoco.Renderer": ("o", "0.3", [speed.mujoco for speed in speeds]),
        "  without shadows and\n  reflections": (
            "s",
            "0.6",
            [speed.plain for speed in speeds],
        ),
    }
    for number, batch in enumerate(batches):
        label = f"ray caster, batch of {batch}"
        spreads = [speed.ours[batch] for speed in speeds]
        series[label] = ("^Dv<>"[number % 5], f"C{number}", spreads)
    for number, (label, (marker, color, spreads)) in enumerate(series.items()):
        shift = 0.6 * (number / (len(series) - 1) - 0.5)
        axes.errorbar(
            [spread.median for spread in spreads],
            [place + shift for place in range(len(found))],
            xerr=bars(spreads),
            fmt=marker,
            color=color,
            capsize=2,
            label=label,
        )
    axes.set_xscale("log")
    axes.set_yticks(range(len(found)), list(found))
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlabel("64×64 frames per second (median and quartiles)")
    axes.set_title(title)
    axes.grid(alpha=0.3, which="both", axis="x")
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize="small")
    return figure


def sheet(found: dict[str, tuple[Comparison, Speed]]) -> Figure:
    """Images of every domain by both renderers, and perturbations of one image."""
    pairs = 3
    rows = len(found)
    figure = Figure(figsize=(9.5, 1.56 * rows + 1.7), dpi=110, layout="constrained")
    parts = figure.subfigures(2, 1, squeeze=False, height_ratios=[1.56 * rows, 1.7])
    upper, lower = parts[:, 0]
    grid = upper.subplots(rows, 2 * pairs, squeeze=False)
    for row, (domain, (comparison, _)) in zip(grid, found.items(), strict=True):
        for axes in row:
            axes.set_xticks([])
            axes.set_yticks([])
        row[0].set_ylabel(domain, fontsize=9)
        for number, pictures in enumerate(comparison.pictures[:pairs]):
            for side, picture in enumerate(pictures):
                row[2 * number + side].imshow(picture, interpolation="nearest")
    for column, axes in enumerate(grid[0]):
        axes.set_title("ray caster" if column % 2 else "mujoco.Renderer", fontsize=8)

    picture = jnp.asarray(list(found.values())[-1][0].pictures[0][1])
    domain = list(found)[-1]
    lower.suptitle(f"the first image of {domain}, perturbed", fontsize=9)
    below = lower.subplots(1, len(CONDITIONS), squeeze=False)[0]
    for axes, text in zip(below, CONDITIONS, strict=True):
        changed = perturb.parse(text)(jax.random.key(0), picture)
        axes.imshow(changed, interpolation="nearest")
        axes.set_title(text, fontsize=8)
        axes.axis("off")
    return figure


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return command(_parser(), run, argv)


def run(options: argparse.Namespace) -> None:
    """Compare and time both renderers, and publish the result.

    Raises:
        UserError: MuJoCo has no OpenGL, or a file cannot be written.
    """
    domains = QUICK_DOMAINS if options.quick else DOMAINS
    poses, rounds = (3, 3) if options.quick else (20, 15)
    batches = (1, 16) if options.quick else (1, 16, 64)
    found = {}
    for domain in domains:
        try:
            comparison = compare(domain, poses)
            found[domain] = (comparison, time_domain(domain, batches, rounds))
        except NoOpenGLError as error:
            raise UserError(str(error)) from None
        print(f"{domain}: done", flush=True)
    title = f"Drawing the tasks, jax on {jax.default_backend()}"
    title += f": {QUICK}" if options.quick else ""
    result = record(found, poses)
    publish(options, result, table(found), lambda: draw(found, title=title))
    if options.sheet is not None:
        save_figure("--sheet", options.sheet, sheet(found))


def _parser() -> Parser:
    parser = Parser(
        "environments.render",
        description="Compare the ray caster with MuJoCo's renderer.",
    )
    parser.add_outputs(quick="three domains, few poses")
    parser.add_argument(
        "--sheet", type=Path, metavar="OUT", help="write example images to this file"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
