"""Results of suites of training runs as Markdown, for docs/does-it-help.md."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.readme.tables import Result
from benchmarks.suite.report import (
    NO_RUNS,
    aggregate_table,
    interval,
    seeds,
    smoothness_table,
    tasks_in_words,
    tasks_table,
)


def suite(results: Sequence[Result], command: str) -> str:
    """One suite: number of finished runs, comparison of the arms, tables, plots.

    Args:
        results: results of the suite; the latest is used.
        command: the command to show if there is no result.
    """
    nothing = f"{NO_RUNS} `{command}` makes them."
    if not results:
        return nothing
    result = max(results, key=lambda each: each.data["provenance"]["date"])
    if not result.data["runs"]:
        return nothing
    data = result.data
    blocks = [f"**{data['title']}**: {finished(data)}", *verdicts(data)]
    if result.picture:
        blocks.append(f"![learning curves]({result.picture})")
    blocks.append(tasks_table(data))
    if data["aggregates"]["tasks"]:
        if result.picture:
            beside = result.picture.replace(".png", "-aggregate.png")
            blocks.append(f"![aggregates]({beside})")
        blocks += [aggregate_table(data), smoothness_table(data)]
    blocks.append(f"({origin(data)}: [data]({result.link}))")
    return "\n\n".join(filter(None, blocks))


def suites(results: Sequence[Result], names: Sequence[str]) -> str:
    """Several suites in sequence; those without a result are listed in one line."""
    found = {result.data["suite"]: result for result in results}
    found = {name: x for name, x in found.items() if x.data["runs"]}
    blocks = [suite([found[name]], "") for name in names if name in found]
    missing = [name for name in names if name not in found]
    if missing:
        blocks.append(f"{NO_RUNS} {', '.join(f'`{name}`' for name in missing)}.")
    return "\n\n".join(blocks)


def finished(data: Mapping[str, Any]) -> str:
    """The number of finished runs out of all runs of the suite, as text."""
    wanted = len(data["tasks"]) * len(data["arms"]) * len(data["seeds"])
    missing = wanted - len(data["runs"])
    told = f"{len(data['runs'])} of {wanted} runs finished"
    if not missing:
        return f"all {wanted} runs finished ({seeds(data)} of each task and arm)."
    return (
        f"{told} ({seeds(data)} of each task and arm). **The rest is still to come.**"
    )


def verdicts(data: Mapping[str, Any]) -> list[str]:
    """For each arm, whether its interval excludes equality with the baseline."""
    found, baseline = data["aggregates"], data["baseline"]
    if not found.get("improvement"):
        return [
            "No task has a finished run of every arm yet, so arms are not compared."
        ]
    lines = []
    for arm, improved in found["improvement"].items():
        kind = "paired" if improved["paired"] else "unpaired"
        value, low, high = improved[kind]
        which = {"paired": "of the same seed", "unpaired": "of any seed"}[kind]
        odds = f"a run of `{arm}` ends above the run of `{baseline}` {which} with"
        if low is None:
            lines.append(f"* `{arm}`: too few seeds for an interval, so no verdict.")
            continue
        if low > 0.5:
            says = f"`{arm}` is better"
        elif high < 0.5:
            says = f"`{arm}` is worse"
        else:
            says = "one half is inside: **these runs show no difference**"
        lines.append(
            f"* {odds} probability {value:.2f} [{low:.2f}, {high:.2f}]: {says}."
        )
        if "normalized" in found:
            lines[-1] += (
                f" Its mean return is {interval(found['normalized'][arm]['mean'])} "
                f"times that of `{baseline}`, whose own is "
                f"{interval(found['normalized'][baseline]['mean'])}."
            )
    tasks = tasks_in_words(found["tasks"])
    return [f"Final returns over {tasks}, {seeds(data)}:\n\n" + "\n".join(lines)]


def origin(data: Mapping[str, Any]) -> str:
    """Machines, commits and dates of the runs."""
    where = Counter(run.get("cpu") or "unknown machine" for run in data["runs"])
    commits = Counter((run.get("commit") or "none")[:7] for run in data["runs"])
    dates = sorted(run["date"][:10] for run in data["runs"] if run.get("date"))
    days = f", {dates[0]} to {dates[-1]}" if dates else ""
    words = ", ".join(f"{name} ({count} runs)" for name, count in commits.items())
    return f"{', '.join(where)}; commits {words}{days}"
