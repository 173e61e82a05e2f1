"""Parity of the environments with dm_control: the error of one control step.

    python -m benchmarks.environments.parity [--quick] [--tasks TASK ...] [--json OUT]
                                    [--png OUT]

States are visited by dm_control under random actions. From each state both simulators
take the same control step; the error is the largest absolute difference of any entry,
in that entry's unit. float64 and float32 run in separate processes, because MJX caches
constants in the precision of its first use.
"""

import argparse
import dataclasses
import functools
import json
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

import envs
from benchmarks.cli import QUICK, Parser, command, count, publish
from benchmarks.measure.tables import text_table
from train.errors import UserError

PRECISIONS = ("float64", "float32")
PARTS = ("state", "observation", "reward")
QUICK_TASKS = ("cartpole-balance", "walker-walk")
EPISODES, EVERY = 4, 5
LOWEST = 1e-18
"""Errors of 0 are plotted at this value."""


class Steps(NamedTuple):
    """Control steps of dm_control, one per row; fields from `state` on are after it."""

    qpos: np.ndarray
    qvel: np.ndarray
    act: np.ndarray
    warmstart: np.ndarray
    scene: np.ndarray
    action: np.ndarray
    state: np.ndarray
    observation: np.ndarray
    reward: np.ndarray


def visit(task: str, env: Any, states: int) -> Steps:
    """Every fifth step of dm_control episodes with random actions."""
    dm_env = _load(task)
    rng = np.random.default_rng(0)
    spec = dm_env.action_spec()
    rows = []
    for _ in range(EPISODES):
        dm_env.reset()
        data = dm_env.physics.data
        scene = np.array(env.task.scene(dm_env.physics.model.ptr))
        for t in range(EVERY * math.ceil(states / EPISODES)):
            action = rng.uniform(-1, 1, spec.shape)
            before = (data.qpos, data.qvel, data.act, data.qacc_warmstart)
            before = [x.copy() for x in before]
            row = dm_env.step(_controls(action, spec))
            if t % EVERY == EVERY - 1:
                after = np.concatenate([data.qpos, data.qvel, data.act])
                seen = [np.ravel(x) for x in row.observation.values()]
                result = (after, np.concatenate(seen), np.array(row.reward))
                rows.append((*before, scene, action, *result))
    return Steps(*(np.stack(column) for column in zip(*rows, strict=True)))


def errors(task: str, states: int) -> dict[str, dict[str, float]]:
    """Median, 95th percentile and maximum of each part's error, in JAX's precision."""
    env: Any = envs.make(task, action_repeat=1)
    steps = visit(task, env, states)
    # The forces before a step do not affect it, and are slow to compile.
    force = np.zeros(env._rest.force.size)

    def step(qpos, qvel, act, warmstart, scene, action):
        state = env.from_physics(qpos, qvel, act, scene=scene, force=force)
        # The constraint solver's warm start is part of the state.
        physics = dataclasses.replace(state.physics, qacc_warmstart=warmstart)
        state, _ = env.advance(dataclasses.replace(state, physics=physics), action)
        end = state.physics
        coordinates = jnp.concatenate([end.qpos, end.qvel, end.act])
        return coordinates, env.observe(state), env.reward(state)

    inputs = [jnp.asarray(column, float) for column in steps[:6]]
    found = jax.jit(jax.vmap(step))(*inputs)
    return {
        part: summary(np.asarray(ours, np.float64) - theirs)
        for part, ours, theirs in zip(PARTS, found, steps[6:], strict=True)
    }


def summary(difference: Float[np.ndarray, "steps ..."]) -> dict[str, float]:
    """Median, 95th percentile and maximum of each step's largest entry."""
    worst = np.max(np.abs(difference.reshape(len(difference), -1)), axis=1)
    return {
        "median": float(np.median(worst)),
        "p95": float(np.quantile(worst, 0.95)),
        "max": float(np.max(worst)),
    }


def in_own_process(
    precision: str, tasks: Sequence[str], states: int
) -> dict[str, dict[str, dict[str, float]]]:
    """`errors` of all tasks, from a subprocess that computes in `precision`.

    Raises:
        UserError: the subprocess failed; its stderr has the reason.
    """
    command = [
        sys.executable,
        "-m",
        "benchmarks.environments.parity",
        "--precision",
        precision,
    ]
    command += ["--states", str(states), "--tasks", *tasks]
    environment = os.environ | {
        "JAX_ENABLE_X64": str(precision == "float64"),
        "MUJOCO_GL": "disabled",  # dm_control.suite opens a renderer otherwise
    }
    found = {}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                found |= json.loads(line)
                print(f"{precision}: {len(found)}/{len(tasks)} tasks", file=sys.stderr)
    if process.returncode:
        raise UserError(f"the {precision} process ended with {process.returncode}")
    return found


def table(found: dict[str, Any]) -> str:
    """The errors as text."""
    names = ("median", "95 %", "largest")
    head = [f"{p}\n{name}" for p in PRECISIONS for name in names]
    rows = [
        [
            "" if number else task,
            part,
            *(f"{x:.0e}" for p in PRECISIONS for x in precisions[p][part].values()),
        ]
        for task, precisions in found.items()
        for number, part in enumerate(PARTS)
    ]
    return text_table(["", "", *head], rows, left=2)


def draw(found: dict[str, Any], title: str) -> Figure:
    """From the median (filled) over the 95th percentile to the maximum, by task."""
    tasks = list(found)
    size = (12, 2.2 + 0.36 * len(tasks))
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    panels = figure.subplots(1, len(PARTS), sharey=True, sharex=True)
    for panel, part in zip(panels, PARTS, strict=True):
        for number, precision in enumerate(PRECISIONS):
            places = [i + 0.3 * (number - 0.5) for i in range(len(tasks))]
            values = {
                name: [max(LOWEST, found[t][precision][part][name]) for t in tasks]
                for name in ("median", "p95", "max")
            }
            color = f"C{number}"
            panel.hlines(places, values["median"], values["max"], color=color, lw=1)
            panel.plot(values["median"], places, "o", color=color, label=precision)
            panel.plot(values["p95"], places, "|", color=color, ms=9)
            panel.plot(values["max"], places, "o", color=color, mfc="white")
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(numticks=6))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_title(part)
        panel.grid(alpha=0.3, axis="x")
    panels[1].set_xlabel("absolute error of the worst entry")
    panels[0].set_yticks(range(len(tasks)), tasks)
    panels[0].set_ylim(len(tasks) - 0.5, -0.5)
    panels[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.suptitle(
        f"{title}\nmedian (filled), 95 % (bar) and largest error (open); 0 is drawn at "
        f"{LOWEST:g}",
        fontsize="medium",
    )
    return figure


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return command(_parser(), _run, argv)


def _run(options: argparse.Namespace) -> None:
    default = QUICK_TASKS if options.quick else envs.TASKS
    tasks = chosen_tasks(options.tasks, default)
    states = options.states or (24 if options.quick else 400)
    if options.precision is not None:
        for task in tasks:
            print(json.dumps({task: errors(task, states)}), flush=True)
            jax.clear_caches()
        return
    with ThreadPoolExecutor() as pool:  # nothing is timed here
        ask = functools.partial(in_own_process, tasks=tasks, states=states)
        by_precision = dict(zip(PRECISIONS, pool.map(ask, PRECISIONS), strict=True))
    found = {t: {p: by_precision[p][t] for p in PRECISIONS} for t in tasks}
    title = "One control step against dm_control"
    title += f": {QUICK}" if options.quick else ""
    result = {"states": states, "tasks": found}
    publish(options, result, table(found), lambda: draw(found, title))


def chosen_tasks(asked: Sequence[str] | None, default: Sequence[str]) -> list[str]:
    """The canonical names of the requested suite tasks.

    Raises:
        UserError: an unknown task.
    """
    found = []
    for name in asked or default:
        try:
            found.append(envs.canonical_name(name))
        except ValueError as error:
            raise UserError(f"--tasks {name}: {error}") from None
        if found[-1] not in envs.TASKS:
            raise UserError(f"--tasks {name}: allowed: {', '.join(envs.TASKS)}")
    return found


def _load(task: str) -> Any:
    os.environ.setdefault("MUJOCO_GL", "disabled")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from dm_control import suite
    domain, name = task.split("-")
    return suite.load(domain, name, task_kwargs={"random": 0})


def _controls(action: np.ndarray, spec: Any) -> np.ndarray:
    return spec.minimum + (action + 1) / 2 * (spec.maximum - spec.minimum)


def _parser() -> Parser:
    parser = Parser(
        "environments.parity",
        description="Compare one control step of every task with dm_control's.",
    )
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="default: all")
    parser.add_argument("--states", type=count, help="states per task (default 400)")
    parser.add_outputs(quick="two tasks, 24 states")
    parser.add_argument("--precision", choices=PRECISIONS, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
