"""A suite's tables: Markdown, which a terminal shows as well."""

import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure.tables import text_table
from benchmarks.suite.declare import Cell, Suite
from benchmarks.suite.place import Place, State
from benchmarks.suite.results import Run, cell_of, merge
from benchmarks.suite.summary import by_task

DASH = "–"
NO_RUNS = "**No runs yet.**"


@cache
def paper() -> Mapping[str, Any]:
    """What the GPLD paper and the peers report (`paper.toml`)."""
    return tomllib.loads((Path(__file__).parent / "paper.toml").read_text("utf-8"))


def report(result: Mapping[str, Any]) -> str:
    """All tables of a result."""
    if not result["runs"]:
        return NO_RUNS
    tables = [tasks_table(result), aggregate_table(result), smoothness_table(result)]
    return "\n\n".join([title(result), *filter(None, tables)])


def title(result: Mapping[str, Any]) -> str:
    """The suite's title with the number of seeds."""
    return f"{result['title']}: {seeds(result)}"


def seeds(result: Mapping[str, Any]) -> str:
    """How many seeds each task and arm has, in words."""
    counts = [
        result["aggregates"]["seeds"][arm].get(task, 0)
        for arm in result["arms"]
        for task in result["tasks"]
    ]
    low, high = min(counts), max(counts)
    many = f"{low}" if low == high else f"{low} to {high}"
    return f"{many} seed{'' if low == high == 1 else 's'}"


def tasks_in_words(tasks: Sequence[str]) -> str:
    """How many tasks they are."""
    return f"{len(tasks)} task{'s' * (len(tasks) != 1)}"


def tasks_table(result: Mapping[str, Any]) -> str:
    """As GPLD's Table 3: mean ± standard deviation over seeds, and the relative gain.

    The paper's numbers stand beside ours where it has the task.
    """
    baseline, published = result["baseline"], paper()["gpld"]
    found = {arm: by_task(result["runs"], arm) for arm in result["arms"]}
    others = [arm for arm in result["arms"] if arm != baseline]
    # Without one there is nothing to gain on.
    gains = [f"{arm} / {baseline}" for arm in others] if baseline else []
    header = ["task", "steps", *result["arms"], *gains]
    theirs = any(task in published["gpld"] for task in result["tasks"])
    if theirs:
        header += ["paper (12M, 1M steps): DreamerV3", "GPLD", "gain"]
    rows = []
    for task in result["tasks"]:
        scores = {
            arm: [run["final_return"] for run in found[arm].get(task, {}).values()]
            for arm in result["arms"]
        }
        steps = {
            f"{run['steps']:,}"
            for arm in found.values()
            for run in arm.get(task, {}).values()
        }
        row = [task, " or ".join(sorted(steps)) or DASH]
        row += [_mean_and_spread(scores[arm]) for arm in result["arms"]]
        for arm in others if baseline else []:
            row.append(_gain(scores[arm], scores[baseline]))
        if theirs:
            row += _paper_cells(task)
        rows.append(row)
    return table(header, rows)


def _paper_cells(task: str) -> list[str]:
    """The paper's row of a task, or dashes."""
    both = [paper()["gpld"][arm].get(task) for arm in ("dreamerv3", "gpld")]
    if None in both:
        return [DASH] * 3
    cells = [f"{mean:.0f} ± {spread:.0f}" for mean, spread in both]
    return [*cells, _gain([both[1][0]], [both[0][0]])]


def _mean_and_spread(scores: Sequence[float]) -> str:
    """With the number of seeds, since tasks may differ in it."""
    if not scores:
        return DASH
    if len(scores) == 1:
        return f"{scores[0]:.0f} (n = 1)"
    return f"{np.mean(scores):.0f} ± {np.std(scores, ddof=1):.0f} (n = {len(scores)})"


def _gain(ours: Sequence[float], baseline: Sequence[float]) -> str:
    if not ours or not baseline or np.mean(baseline) <= 0:
        return DASH
    return f"{100 * (np.mean(ours) / np.mean(baseline) - 1):+.1f} %"


def aggregate_table(result: Mapping[str, Any]) -> str:
    """Aggregates over tasks with their intervals, a row for each arm."""
    found = result["aggregates"]
    if not found["tasks"]:
        return "No task has a finished run of every arm yet: no aggregates."
    names = {"iqm": "IQM", "mean": "mean", "median": "median"}
    names |= {"optimality_gap": "optimality gap"}
    scales = {"raw": "return / 1000"}
    if "normalized" in found:
        scales["normalized"] = f"return / that of {result['baseline']}"
    rows = [
        [f"{names[name]} of {words}", *(interval(x[name]) for x in arms.values())]
        for scale, words in scales.items()
        for arms in [found[scale]]
        for name in names
    ]
    for key, words in (("unpaired", "any seeds"), ("paired", "the same seed")):
        if "improvement" in found:
            cells = [
                interval(found["improvement"].get(arm, {}).get(key))
                for arm in result["arms"]
            ]
            rows.append([f"P(better than {result['baseline']}), {words}", *cells])
    note = (
        f"Over {tasks_in_words(found['tasks'])}, {seeds(result)}; in brackets 95 % "
        "intervals of the bootstrap over seeds, stratified by task."
    )
    return f"{table(['', *result['arms']], rows)}\n\n{note}"


def smoothness_table(result: Mapping[str, Any]) -> str:
    """What the arms did to the model, as ratios to the baseline; empty without one.

    Each is the geometric mean over tasks of the ratio of the means over seeds.
    """
    baseline, tasks = result["baseline"], result["aggregates"]["tasks"]
    if baseline is None or not tasks:
        return ""
    found = {arm: by_task(result["runs"], arm) for arm in result["arms"]}
    rows = []
    for name, get in _SMOOTHNESS.items():
        cells = []
        for arm in result["arms"]:
            means = [
                [_mean_of(get, found[which][task].values()) for task in tasks]
                for which in (arm, baseline)
            ]
            known = None not in means[0] + means[1]
            logs = np.log(np.array(means, float)) if known else None
            cells.append(DASH if logs is None else f"{_ratio(logs):.2f}")
        if set(cells) != {DASH}:
            rows.append([name, *cells])
    note = (
        f"Of the trained models, as a ratio to {baseline}: geometric mean over "
        f"{tasks_in_words(tasks)} of the ratio of means over seeds ({seeds(result)})."
    )
    return f"{table(['', *result['arms']], rows)}\n\n{note}"


def _ratio(logs: np.ndarray) -> float:
    return float(np.exp(np.mean(logs[0] - logs[1])))


def _mean_of(
    get: Callable[[Mapping[str, Any]], float], runs: Iterable[Mapping[str, Any]]
) -> float | None:
    """Mean over runs; None where one has no such value, or the mean is 0."""
    try:
        return float(np.mean([get(run) for run in runs])) or None
    except (KeyError, TypeError):
        return None


_SMOOTHNESS: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "exact ‖J‖² of the posterior, replayed states": lambda run: run["jacobian"],
    "exact ‖J‖² of the posterior, own trajectories": lambda run: run["sensitivity"][
        "jacobian"
    ]["posterior"],
    "exact ‖J‖² of the prior": lambda run: run["sensitivity"]["jacobian"]["prior"],
    "KL by perturbation's norm, posterior": lambda run: run["sensitivity"]["kl"][
        "posterior"
    ],
    "KL by perturbation's norm, prior": lambda run: run["sensitivity"]["kl"]["prior"],
}


def interval(estimate: Sequence[float | None] | None) -> str:
    """A value and, where it is known, its interval."""
    if estimate is None:
        return DASH
    value, low, high = estimate
    if low is None or high is None:
        return f"{value:.2f}"
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def status_table(suite: Suite, folder: Path, known: Sequence[Run], jobs: int) -> str:
    """How far every run is, and about how long the rest will take."""
    merged = merge(suite, [], known)
    elsewhere = {cell_of(run): run for run in merged.runs}
    states: dict[Cell, State] = {}
    speeds: dict[str, list[float]] = {}
    for cell in suite.cells():
        place = Place.of(folder, cell)
        if cell in elsewhere and not place.in_use():
            run = elsewhere[cell]
            states[cell] = State("done", run["steps"], "known")
            steps, seconds = run["steps"], 60 * run["minutes"]
        else:
            states[cell] = place.state(suite, cell)
            steps, seconds = place.step(), place.seconds()
        if steps and seconds:
            speeds.setdefault(cell.task, []).append(steps / seconds)
    usual = [speed for each in speeds.values() for speed in each]
    rows, left = [], 0.0
    for cell, state in states.items():
        wanted = suite.config(cell).steps
        rest = 0 if state.kind == "done" else max(wanted - state.step, 0)
        speed = speeds.get(cell.task) or usual
        seconds = rest / float(np.median(speed)) if speed else float("nan")
        left += seconds if rest else 0.0
        cells = [f"{state.step:,} of {wanted:,}", _clock(seconds) if rest else ""]
        rows.append([str(cell), state.kind, *cells, state.note])
    kinds = [state.kind for state in states.values()]
    counts = [f"{kinds.count(k)} {k}" for k in dict.fromkeys(kinds)]
    lines = [
        text_table(["run", "state", "steps", "left", ""], rows, left=5),
        "",
        f"{', '.join(counts)} of {len(kinds)}; {_clock(left / jobs)} left with "
        f"{jobs} side by side",
        *(f"not merged: {line}" for line in merged.refused),
    ]
    return "\n".join(lines)


def _clock(seconds: float) -> str:
    if np.isnan(seconds):
        return "unknown"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown, its columns aligned for the terminal."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    lines.insert(1, ["-" * max(width, 3) for width in widths])
    return "\n".join(
        f"| {' | '.join(f'{x:<{w}}' for x, w in zip(line, widths, strict=True))} |"
        for line in lines
    )
