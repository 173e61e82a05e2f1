"""A suite's results: one record for each finished run, in one file.

The file outlives the folder of the runs: a machine may be lost, and what was written
before counts as done, if its settings are still those of the suite.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.cli import MEASURED, QUICK, WAS_QUICK
from benchmarks.suite.declare import Cell, Suite
from benchmarks.suite.place import Place
from benchmarks.suite.summary import summarize
from train.config import Config
from train.errors import UserError
from train.run_dir import record
from train.run_dir.curve import read_curve
from train.run_dir.provenance import provenance, without_folders

Run = dict[str, Any]

# Settings that a run may change as it goes on, but that results depend on.
_COUNTS = ("--steps", "--eval-every", "--eval-episodes", "--eval-policy")
_LATE = 0.1
"""Where no final agent was evaluated, the final return is the mean of the evaluations
in this last part of a run."""
_FIELDS = {"task", "arm", "seed", "steps", "final_return", "curve", "config"}
_FIELDS |= {"final_episodes", "minutes", "jacobian"}
_POINTS = 50  # of the curve of training episodes


class Merged(NamedTuple):
    """The runs that count, and a line for each one that does not."""

    runs: list[Run]
    refused: list[str]


def cell_of(run: Mapping[str, Any]) -> Cell:
    """Which run of the suite a record is of."""
    return Cell(run["task"], run["arm"], run["seed"])


def read_run(suite: Suite, cell: Cell, place: Place) -> Run:
    """The record of a finished run.

    `final_return` is the mean over the final agent's episodes; where the suite plays
    none, the mean of the last evaluations. `jacobian` is the exact squared Frobenius
    norm of the posterior (GPLD eq. 5) that the run logged, in the same last part;
    `sensitivity` is that of the final agent, or None.
    """
    curve = read_curve(place.run_dir)
    steps, returns = curve.evaluation.steps, curve.evaluation.values
    late = [y for x, y in zip(steps, returns, strict=True) if x >= _since(steps)]
    jacobian = read_curve(place.run_dir, "train/jacobian/posterior").evaluation
    norms = zip(jacobian.steps, jacobian.values, strict=True)
    last = [y for x, y in norms if x >= _since(jacobian.steps)]
    agent = place.evaluated(suite.final_episodes)
    start = _last_start(place.run_dir)
    return {
        **cell._asdict(),
        "steps": place.step(),
        "final_return": agent["mean"] if agent else float(np.mean(late)),
        "final_std": agent["std"] if agent else None,
        "final_episodes": suite.final_episodes,
        "curve": {"steps": steps, "returns": _rounded(returns)},
        "training": _thinned(curve.episodes.steps, curve.episodes.values),
        "jacobian": float(np.mean(last)),
        "sensitivity": place.sensitivity() if suite.sensitivity else None,
        "minutes": round(place.seconds() / 60, 1),
        "flags": " ".join(map(without_folders, suite.words(cell))),
        "forked_at": place.forked_at() if suite.source(cell) else None,
        "commit": start.get("commit"),
        "modified": start.get("modified"),
        "date": start.get("date"),
        "cpu": start.get("machine", {}).get("cpu"),
        "devices": start.get("machine", {}).get("devices"),
        "config": _settings(record.read(place.run_dir / "config.json")),
    }


def _since(steps: Sequence[int]) -> float:
    return (1 - _LATE) * steps[-1]


def _thinned(steps: Sequence[int], values: Sequence[float]) -> dict[str, Any]:
    """Means over equal numbers of points, at their last step."""
    size = -(-len(steps) // _POINTS) or 1
    parts = [slice(i, i + size) for i in range(0, len(steps), size)]
    return {
        "steps": [steps[part][-1] for part in parts],
        "returns": _rounded([float(np.mean(values[part])) for part in parts]),
    }


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 2) for value in values]


def _last_start(run_dir: Path) -> dict[str, Any]:
    try:
        lines = (run_dir / "starts.jsonl").read_text(encoding="utf-8").splitlines()
        return json.loads(lines[-1])
    except (OSError, ValueError, IndexError):
        return {}


def _settings(config: Config) -> dict[str, Any]:
    """All settings, without folders and hosts: results are published."""
    settings = record.to_dict(config)
    del settings["logdir"], settings["scale"]
    origin = settings["origin"]
    for name in ("fork", "init_from"):
        origin[name] = without_folders(origin[name]) if origin[name] else ""
    return settings


def merge(suite: Suite, found: Sequence[Run], known: Sequence[Run]) -> Merged:
    """The suite's finished runs: those on the disk, and of the others the known ones.

    A known run with other settings than the suite's is left out, and named.
    """
    cells = set(suite.cells())
    runs = {cell_of(run): run for run in found}
    refused = []
    for run in known:
        cell = cell_of(run)
        if cell in runs:
            continue
        if cell not in cells:
            refused.append(f"{cell}: not in this suite")
            continue
        differences = mismatch(suite, cell, run)
        if differences:
            refused.append(f"{cell}: {'; '.join(differences)}")
        else:
            runs[cell] = run
    return Merged([runs[cell] for cell in suite.cells() if cell in runs], refused)


def mismatch(suite: Suite, cell: Cell, run: Run) -> list[str]:
    """In what a record is not of the suite's run, as `--flag: old -> new`."""
    try:
        wanted = record.from_dict(_settings(suite.config(cell)))
        settings = dict(run["config"])
        if suite.source(cell) and settings["origin"]["fork"]:
            settings["origin"] = dataclasses.asdict(wanted.origin)
        difference = record.diff(record.from_dict(settings), wanted)
    except (UserError, TypeError, KeyError) as error:
        return [str(error)]
    lines = difference.refused
    lines += [x for x in difference.allowed if x.partition(":")[0] in _COUNTS]
    if run["final_episodes"] != suite.final_episodes:
        lines.append(
            f"final_episodes: {run['final_episodes']} -> {suite.final_episodes}"
        )
    if suite.sensitivity and not run.get("sensitivity"):
        lines.append("sensitivity: not measured")
    return lines


def read_results(path: Path, *, quick: bool = False) -> list[Run]:
    """The records of a result file; none where it does not exist.

    Raises:
        UserError: it cannot be read, or is no result of a suite, or one of `--quick`
            that is not asked for (and the other way round).
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        runs = [dict(run) for run in result["runs"]]
        for run in runs:
            if missing := _FIELDS - run.keys():
                raise KeyError(*sorted(missing))
        what = result["what"]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no result of a suite ({error!r})") from None
    if what not in ((QUICK, WAS_QUICK) if quick else (MEASURED,)):
        raise UserError(
            f"{path}: holds {what}; allowed: another file "
            f"{'with' if quick else 'without'} --quick"
        )
    return runs


def collect(suite: Suite, folder: Path) -> list[Run]:
    """The records of all runs in a folder that are finished and not in use."""
    found = []
    for cell in suite.cells():
        place = Place.of(folder, cell)
        if place.state(suite, cell).kind == "done":
            found.append(read_run(suite, cell, place))
    return found


def write(suite: Suite, runs: Sequence[Run], path: Path, *, quick: bool) -> Run:
    """Write the runs and their aggregates, a line for each run; what was written.

    Raises:
        UserError: the file cannot be written.
    """
    result = {
        "provenance": provenance(with_device=False),
        "what": QUICK if quick else MEASURED,
        "suite": suite.name,
        "title": suite.title,
        "baseline": suite.baseline,
        "tasks": list(suite.tasks),
        "arms": list(suite.arms),
        "seeds": list(suite.seeds),
        "aggregates": summarize(runs, arms=suite.arms, baseline=suite.baseline),
    }
    text = _lines(result | {"runs": list(runs)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        scratch.write_text(text, encoding="utf-8")
        os.replace(scratch, path)
    except OSError as error:
        raise UserError(f"--json {path}: cannot be written ({error})") from None
    return result | {"runs": list(runs)}


def _lines(result: Mapping[str, Any]) -> str:
    """JSON with a line for each run and each aggregate, so that changes are seen."""
    dump = lambda value: json.dumps(value, allow_nan=False)
    parts = []
    for key, value in result.items():
        if key == "runs":
            inside = ",\n  ".join(map(dump, value))
            text = f"[\n  {inside}\n ]" if value else "[]"
        elif key == "aggregates":
            inside = ",\n  ".join(f"{dump(k)}: {dump(v)}" for k, v in value.items())
            text = f"{{\n  {inside}\n }}"
        else:
            text = dump(value)
        parts.append(f" {dump(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process of a suite collects the results of this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".results").open("w") as file:
        with contextlib.suppress(OSError):  # no locks there: then without
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
