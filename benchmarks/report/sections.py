"""The sections of a report."""

from collections import Counter
from collections.abc import Sequence

from matplotlib.figure import Figure

from benchmarks.curves.arms import differing
from benchmarks.curves.draw import draw
from benchmarks.measure.page import (
    Films,
    Part,
    Picture,
    Section,
    Table,
    page,
    provenance_section,
)
from benchmarks.measure.tables import text_table
from benchmarks.report.read import Arm, Run, films
from train.run_dir.provenance import provenance

HEAD = ["configuration", "agents", "step", "final return", "lowest", "highest"]


def make_page(arms: Sequence[Arm], runs: Sequence[Run], *, quick: bool) -> str:
    """The report as HTML.

    Raises:
        UserError: a film that is no GIF.
    """
    tasks = ", ".join(dict.fromkeys(arm.task for arm in arms))
    agents = sum(len(arm.agents) for arm in arms)
    return page(
        f"Training report: {tasks}",
        [
            Section("Learning curves", _curves(arms, quick=quick)),
            Section("Final returns", _scores(arms)),
            Section("Differences", _differences(arms)),
            Section("Speed", _speed(runs)),
            Section("Films", _films(arms)),
            Section("Machines and versions", _machines(runs)),
            Section("All settings", [_settings(arms)], folded=True),
            provenance_section(provenance(with_device=False)),
        ],
        intro=f"{_count(len(runs), 'run')}, {_count(agents, 'agent')}, "
        f"{_count(len(arms), 'configuration')}. Runs that differ only in their seed "
        "are one configuration.",
    )


def score_rows(arms: Sequence[Arm]) -> list[list[str]]:
    """A row per arm for `HEAD`."""
    rows = []
    for arm in arms:
        finals = [agent.final for agent in arm.agents]
        steps = [agent.step for agent in arm.agents]
        ends = dict.fromkeys((min(steps), max(steps)))
        name = arm.label + ("" if arm.evaluated else " (training episodes)")
        reached = " to ".join(f"{step:,}" for step in ends)
        rows.append(
            [
                name,
                str(len(finals)),
                reached,
                str(arm.final),
                f"{min(finals):.3g}",
                f"{max(finals):.3g}",
            ]
        )
    return rows


def score_text(arms: Sequence[Arm]) -> str:
    """The final returns for the terminal."""
    return text_table(HEAD, score_rows(arms))


def draw_all(arms: Sequence[Arm], *, quick: bool) -> Figure:
    """The curves of all arms in one figure."""
    return draw([arm.curve for arm in arms], quick=quick)


def _curves(arms: Sequence[Arm], *, quick: bool) -> list[Part]:
    caption = (
        "Return against environment steps and wall-clock time. Solid: evaluation "
        "episodes; faint: training episodes. Several seeds: their mean, with a band of "
        "one standard deviation."
    )
    parts: list[Part] = []
    for task in dict.fromkeys(arm.task for arm in arms):
        figure = draw([x.curve for x in arms if x.task == task], quick=quick)
        parts.append(Picture(figure, f"{task}. {caption}"))
    return parts


def _scores(arms: Sequence[Arm]) -> list[Part]:
    return [
        "The last evaluation of each agent: the mean over agents with its 95 % "
        "bootstrap interval over seeds, the lowest and the highest. With fewer than "
        "about five seeds the interval is too narrow.",
        Table(HEAD, score_rows(arms)),
    ]


def _differences(arms: Sequence[Arm]) -> list[Part]:
    """Settings that are not the same in all arms, beside the final return."""
    if len(arms) < 2:
        return []
    names = differing([arm.settings for arm in arms])
    if not names:
        return ["Except for seeds and tasks, all settings are the same."]
    rows = [
        [arm.label, *(_value(arm, name) for name in names), str(arm.final)]
        for arm in arms
    ]
    return [Table(["configuration", *names, "final return"], rows)]


def _settings(arms: Sequence[Arm]) -> Table:
    names = list(dict.fromkeys(name for arm in arms for name in arm.settings))
    rows = [[name, *(_value(arm, name) for arm in arms)] for name in names]
    return Table(["flag", *(arm.label for arm in arms)], rows)


def _value(arm: Arm, name: str) -> str:
    return str(arm.settings.get(name, "–"))


def _speed(runs: Sequence[Run]) -> list[Part]:
    head = ["run", "state", "steps", "of", "hours", "steps/s", "quartiles", "updates/s"]
    head += ["skipped updates", "starts"]
    rows = []
    for run in runs:
        speed, updates = run.speed, run.updates
        rows.append(
            [
                run.name + (f" ({run.agents} agents)" if run.agents > 1 else ""),
                run.state,
                f"{run.step:,}",
                f"{run.total:,}",
                "" if run.minutes is None else f"{run.minutes / 60:.2f}",
                "" if speed is None else f"{speed[1]:.3g}",
                "" if speed is None else f"{speed[0]:.3g}–{speed[2]:.3g}",
                "" if updates is None else f"{updates[1]:.3g}",
                f"{run.skipped:,}",
                str(run.starts),
            ]
        )
    return [
        "Environment steps and updates of each agent a second, as medians over the "
        "log, which evaluations and saving hardly change; the hours contain all.",
        Table(head, rows, left=2),
    ]


def _films(arms: Sequence[Arm]) -> list[Part]:
    shown, large = [], []
    for arm in arms:
        pictures, names = films(arm)
        shown += pictures
        large += names
    parts: list[Part] = [Films(shown)] if shown else []
    if large:
        parts.append(f"Too large to be shown here: {', '.join(large)}.")
    if not parts:
        parts.append(
            "No film is in these runs. For one: python -m train.play --run RUN "
            "--video RUN/film.gif"
        )
    return parts


def _machines(runs: Sequence[Run]) -> list[Part]:
    """Distinct machines with versions and commits, and the runs trained there."""
    found: Counter[tuple[str, ...]] = Counter()
    for run in runs:
        machine = run.start.get("machine") or {}
        versions = run.start.get("versions") or {}
        cores = machine.get("cores")
        commit = str(run.start.get("commit") or "unknown")[:10]
        found[
            str(machine.get("cpu", "unknown")),
            "" if cores is None else str(cores),
            ", ".join(map(str, machine.get("devices", []))),
            str(versions.get("jax", "unknown")),
            str(versions.get("mujoco", "unknown")),
            str(versions.get("smooth-dreamer", "unknown")),
            commit + ("*" if run.start.get("modified") else ""),
            str(run.start.get("date", "unknown"))[:10],
        ] += 1
    head = ["processor", "cores", "devices", "jax", "mujoco", "smooth-dreamer"]
    head += ["commit", "last started", "runs"]
    rows = [[*key, str(count)] for key, count in found.items()]
    parts: list[Part] = [Table(head, rows, left=len(head) - 1)]
    if any(run.start.get("modified") for run in runs):
        parts.append("* with changes that were not committed")
    return parts


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
