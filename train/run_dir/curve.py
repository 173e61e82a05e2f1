"""The learning curve of one agent, from its run directory.

Steps are environment steps (control steps of the simulator); times are minutes since
the start of the run. An active run can be read.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from train.config import Config, sweep
from train.config.fields import did_you_mean, flags
from train.errors import UserError

EVALUATION_KEY = "eval/return_mean"
EPISODE_KEY = "episode/return"
TIME_KEY = "time/seconds"


@dataclass(frozen=True)
class Series:
    """One quantity: `values[i]` at `steps[i]` and `minutes[i]`.

    For several agents it is their mean, with standard deviation `spread[i]` over the
    `agents[i]` agents that have this step; both lists are empty for one agent.
    """

    steps: list[int]
    minutes: list[float]
    values: list[float]
    spread: list[float] = field(default_factory=list)
    agents: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Curve:
    """The learning curve of one agent, or the mean of several, with its label.

    `evaluation` is the return of evaluation episodes, or the requested metric;
    `episodes` is the return of training episodes, empty for another metric. `seeds`
    are the agents' seeds.
    """

    label: str
    evaluation: Series
    episodes: Series
    seeds: list[int] = field(default_factory=list)


class NoReturnYet(UserError):
    """A run in which no episode has ended."""


def read_curve(run_dir: Path, metric: str | None = None) -> Curve:
    """Read one agent's `metrics.jsonl`, `timing.jsonl` and `config.json`.

    Args:
        run_dir: a run directory; for a run with several seeds, e.g. `RUN_DIR/seed_0`.
        metric: a name in metrics.jsonl, instead of the returns.

    Raises:
        UserError: a missing or corrupt file, or an unknown metric.
        NoReturnYet: no episode has ended.
    """
    if not run_dir.is_dir():
        raise UserError(f"RUN_DIR {run_dir}: no such directory; give that of a run")
    records = read_records(run_dir / "metrics.jsonl")
    timing = read_records(_beside(run_dir, "timing.jsonl"))
    config = read_config(run_dir)
    empty = Series([], [], [])
    curve = Curve(
        label=f"{config['env']}, seed {config['seed']}",
        evaluation=_series(records, metric or EVALUATION_KEY, timing),
        episodes=empty if metric else _series(records, EPISODE_KEY, timing),
        seeds=[config["seed"]],
    )
    if curve.evaluation.steps or curve.episodes.steps:
        return curve
    if metric:
        raise UserError(_unknown(metric, run_dir, records))
    raise NoReturnYet(
        f"RUN_DIR {run_dir}: metrics.jsonl holds neither {EVALUATION_KEY!r} nor "
        f"{EPISODE_KEY!r}; wait for the first episode to end, or leave the run out"
    )


def _unknown(metric: str, run_dir: Path, records: Sequence[dict[str, Any]]) -> str:
    """The error message for a metric that is in no record."""
    names = sorted({name for record in records for name in record} - {"step"})
    within = [name for name in names if metric.strip("/") in name]
    if not names:
        hint = "; metrics.jsonl is empty as yet"
    elif within:
        hint = f"; allowed: {', '.join(within)}"
    else:
        hint = did_you_mean(metric, names)
    return f"--metric {metric}: {run_dir} has no such metric{hint}"


def read_config(run_dir: Path) -> dict[str, Any]:
    """The configuration of one agent's run, with the agent's own seed.

    Raises:
        UserError: it is missing, or has no environment and seed.
    """
    path = _beside(run_dir, "config.json")
    if not path.is_file():
        raise UserError(f"{path}: no such file; is this the directory of a run?")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        seed = int(config["seed"])
        own = sweep.of_folder(run_dir.name) if path.parent != run_dir else None
        if own is not None:
            seed += own[0]
            _put(config, own[1])
        return config | {"env": str(config["env"]), "seed": seed}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no 'env' and 'seed' to be read there") from error


def _put(config: dict[str, Any], values: dict[str, float]) -> None:
    """Set values by flag in a configuration read from JSON."""
    for flag in flags(Config):
        if flag.name in values:
            *parts, name = flag.path
            part = config
            for key in parts:
                part = part[key]
            part[name] = values[flag.name]


def agents(run_dir: Path) -> list[Path]:
    """The folders of a run's agents: the run directory, or its `seed_N` folders.

    Raises:
        UserError: no such directory, or a directory of several runs.
    """
    if not run_dir.is_dir():
        raise UserError(f"RUN_DIR {run_dir}: no such directory; give that of a run")
    if (run_dir / "metrics.jsonl").is_file():
        return [run_dir]
    found = {
        path.parent: own
        for path in run_dir.glob("seed_*/metrics.jsonl")
        if (own := sweep.of_folder(path.parent.name)) is not None
    }
    if found:
        return sorted(found, key=lambda x: (*found[x][1].values(), found[x][0]))
    runs = sorted(path.parent for path in run_dir.glob("*/config.json"))
    if runs:
        raise UserError(
            f"RUN_DIR {run_dir}: not a run, but it holds {len(runs)}; allowed: "
            f"{run_dir}/* for all of them, or one, as {runs[0]}"
        )
    return [run_dir]  # reading it gives the error message


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a log, in order; those that a resumed run replaced are left out.

    Raises:
        UserError: the file is missing, or a line other than the last is damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; is this the directory of a run?")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break  # an incomplete last line: the run is active or was killed
            raise UserError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(record, dict):
            raise UserError(f"{path}, line {number}: got {line!r}, expected an object")
        wrong = [k for k, value in record.items() if not _is_number(value, key=k)]
        if wrong:
            raise UserError(
                f"{path}, line {number}: {wrong[0]} is {record[wrong[0]]!r}, "
                "expected a number"
            )
        records.append(record)
    return _without_replaced(records)


def _is_number(value: object, *, key: str) -> bool:
    """A number, or null (the log's value for infinity and NaN) except as a step."""
    return isinstance(value, int | float) or (value is None and key != "step")


def _without_replaced(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    # A run resumed from a checkpoint repeats the steps after it. Keep only the later
    # records, which are the history of the current agent.
    kept: list[dict[str, Any]] = []
    for record in records:
        while "step" in record and kept and kept[-1].get("step", 0) > record["step"]:
            kept.pop()
        kept.append(record)
    return kept


def _series(
    records: Iterable[dict[str, Any]], key: str, timing: Sequence[dict[str, Any]]
) -> Series:
    rows = [record for record in records if record.get(key) is not None]
    if any("step" not in row for row in rows):
        raise UserError(f"metrics.jsonl: a record has {key!r} but no 'step'")
    ticks = [row for row in timing if TIME_KEY in row]
    at = [row["step"] for row in ticks]
    clock = [row[TIME_KEY] / 60 for row in ticks]
    steps = [int(row["step"]) for row in rows]
    # The first records precede the first timing record and get its time.
    minutes = np.interp(steps, at, clock) if ticks and steps else steps
    return Series(
        steps=steps,
        minutes=[float(minute) for minute in minutes],
        values=[float(row[key]) for row in rows],
    )


def _beside(run_dir: Path, name: str) -> Path:
    """A file of the run: in `run_dir`, or in its parent for one of several agents."""
    here = run_dir / name
    return here if here.is_file() else run_dir.resolve().parent / name
