"""What a report needs from run directories, read from their files only."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.curves.arms import Settings, average, group_agents, settings_of
from benchmarks.measure.page import Picture
from benchmarks.suite.statistics import Estimate, estimate, mean
from train.errors import UserError, printable
from train.run_dir.curve import (
    Curve,
    NoReturnYet,
    agents,
    read_config,
    read_curve,
    read_records,
)
from train.run_dir.provenance import without_folders
from train.watch import look

LARGEST_FILM = 10_000_000
"""Bytes; larger films are named in the report, not shown."""


class Agent(NamedTuple):
    """One agent at the end of its log.

    Attributes:
        run: name of its run.
        final: its last evaluation, or last training episode if it has none.
        step: the environment step of `final`.
    """

    run: str
    seed: int
    final: float
    step: int


@dataclass(frozen=True)
class Arm:
    """Agents that differ in their seed only.

    Attributes:
        curve: their mean, as `benchmarks.curves` has it.
        settings: those that affect training, by flag.
        evaluated: `final` is from evaluation episodes, not from training episodes.
        folders: of the agents.
    """

    label: str
    task: str
    agents: list[Agent]
    curve: Curve
    settings: Settings
    evaluated: bool
    folders: list[Path]

    @property
    def final(self) -> Estimate:
        """Mean of the agents' final returns with a 95 % bootstrap interval."""
        return estimate(mean, [np.array([agent.final for agent in self.agents])])


class Run(NamedTuple):
    """One run directory.

    Attributes:
        state: `running`, `finished` or `stopped`.
        step, total: environment steps of one agent, taken and wanted.
        minutes: of wall-clock time, None before the first record of the speed.
        speed, updates: environment steps and updates of each agent a second: lower
            quartile, median, upper quartile over the log; None before the first record.
        skipped: updates that were skipped as not finite, of all agents.
        starts: how often it was started, at least once.
        start: date, commit, versions, machine and command of the last start.
    """

    name: str
    agents: int
    state: str
    step: int
    total: int
    minutes: float | None
    speed: tuple[float, float, float] | None
    updates: tuple[float, float, float] | None
    skipped: int
    starts: int
    start: dict[str, Any]


def read_arms(run_dirs: Sequence[Path]) -> list[Arm]:
    """The agents of the runs, grouped by their settings.

    Raises:
        UserError: not a run directory, a corrupt file, or no return yet.
    """
    names = run_names(run_dirs)
    arms = []
    for label, folders in group_agents(run_dirs):
        curves = [read_curve(folder) for folder in folders]
        evaluated = all(curve.evaluation.steps for curve in curves)
        found = []
        for folder, curve in zip(folders, curves, strict=True):
            series = curve.evaluation if evaluated else curve.episodes
            # An agent without a finished training episode has evaluations only.
            series = series if series.steps else curve.evaluation
            run = names.get(folder.resolve()) or names[folder.resolve().parent]
            found.append(
                Agent(run, curve.seeds[0], series.values[-1], series.steps[-1])
            )
        settings = {name: _plain(x) for name, x in settings_of(folders[0]).items()}
        arms.append(
            Arm(
                label=label,
                task=read_config(folders[0])["env"],
                agents=found,
                curve=replace(average(curves), label=label),
                settings=settings,
                evaluated=evaluated,
                folders=folders,
            )
        )
    return arms


def read_runs(run_dirs: Sequence[Path]) -> list[Run]:
    """State, speed and origin of each run.

    Raises:
        UserError: not a run directory, or a corrupt file.
    """
    names = run_names(run_dirs)
    found = []
    for run_dir in run_dirs:
        seen = look(run_dir)
        timing = run_dir / "timing.jsonl"
        rows = read_records(timing) if timing.is_file() else []
        starts = _starts(run_dir / "starts.jsonl")
        seconds = [row["time/seconds"] for row in rows if row.get("time/seconds")]
        found.append(
            Run(
                name=names[run_dir.resolve()],
                agents=len(seen),
                state=seen[0].state,
                step=min(each.step for each in seen),
                total=seen[0].total,
                minutes=seconds[-1] / 60 if seconds else None,
                speed=_quartiles(rows, "time/steps_per_second"),
                updates=_quartiles(rows, "time/updates_per_second"),
                skipped=sum(each.skipped for each in seen),
                starts=max(1, len(starts)),
                start=starts[-1] if starts else {},
            )
        )
    return found


def run_names(run_dirs: Sequence[Path]) -> dict[Path, str]:
    """Each resolved run directory with as many of its last folders as tell it apart."""
    paths = [run_dir.resolve() for run_dir in run_dirs]
    for length in range(1, max(len(path.parts) for path in paths)):
        names = [Path(*path.parts[-length:]).as_posix() for path in paths]
        if len(set(names)) == len(set(paths)):
            break
    return {path: printable(name) for path, name in zip(paths, names, strict=True)}


def films(arm: Arm) -> tuple[list[Picture], list[str]]:
    """The films of the first agent that has some, and the names of too large ones.

    Films are the GIFs in the run directory (`train.evaluate --video RUN/film.gif`) and
    the newest of those that training from pixels leaves in `openloop/`.

    Raises:
        UserError: a file that is no GIF.
    """
    for folder in arm.folders:
        run_dir = folder if (folder / "config.json").is_file() else folder.parent
        paths = sorted({*run_dir.glob("*.gif"), *folder.glob("*.gif")})
        paths += sorted(folder.glob("openloop/*.gif"))[-1:]
        if not paths:
            continue
        shown, large = [], []
        for path in paths:
            inside = path.relative_to(run_dir).as_posix()
            name = printable(f"{run_dir.resolve().name}/{inside}")
            if path.stat().st_size > LARGEST_FILM:
                large.append(name)
                continue
            data = path.read_bytes()
            if not data.startswith(b"GIF8"):
                raise UserError(f"{path}: not a GIF; remove it, or make it anew")
            shown.append(Picture(data, f"{arm.label}: {name}"))
        return shown, large
    return [], []


def check(run_dirs: Sequence[Path]) -> list[Path]:
    """The directories without repetitions, each checked to be a run's.

    Raises:
        UserError: it is not, or is the folder of one agent.
    """
    found = list({run_dir.resolve(): run_dir for run_dir in run_dirs}.values())
    for run_dir in found:
        agents(run_dir)
        if not (run_dir / "config.json").is_file():
            raise UserError(
                f"RUN_DIR {run_dir}: has no config.json; allowed: directories of runs "
                "(not those of one of several agents)"
            )
    return found


def with_returns(run_dirs: Sequence[Path]) -> tuple[list[Path], list[NoReturnYet]]:
    """The runs in which an episode of every agent has ended, and why others are not.

    Raises:
        NoReturnYet: there is none.
    """
    found, young = [], []
    for run_dir in run_dirs:
        try:
            for folder in agents(run_dir):
                read_curve(folder)
        except NoReturnYet as error:
            young.append(error)
        else:
            found.append(run_dir)
    if young and not found:
        raise young[0]
    return found, young


def _quartiles(
    rows: Sequence[dict[str, Any]], key: str
) -> tuple[float, float, float] | None:
    values = [row[key] for row in rows if row.get(key) is not None]
    if not values:
        return None
    low, middle, high = np.percentile(values, (25, 50, 75))
    return float(low), float(middle), float(high)


def _starts(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    try:
        found = [json.loads(line) for line in lines]
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    return [start for start in found if isinstance(start, dict)]


def _plain(value: Any) -> Any:
    # A setting may be a path, such as that of a warm start: its folders stay private.
    return without_folders(value) if isinstance(value, str) else value
