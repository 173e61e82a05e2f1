"""Group runs that differ only in their seed into arms, and label the arms."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from train.config import Config
from train.config.fields import flags
from train.config.presets import PRESETS, build, for_target, preset_values
from train.errors import printable
from train.run_dir.curve import Curve, Series, agents, read_config, read_curve
from train.run_dir.record import MAY_CHANGE

Settings = dict[str, Any]

_LEFT_OUT = MAY_CHANGE | {"--seed", "--seeds", "--sweep"}
_OF_PENALTY = frozenset(
    flag.name for flag in flags(Config) if flag.path[0] == "penalty"
) - {"--penalty"}


def read_curves(
    run_dirs: Sequence[Path], *, metric: str | None = None, each: bool = False
) -> list[Curve]:
    """The curves of several runs: one per configuration, averaged over agents.

    Agents form one curve (an arm) if they differ only in their seed and all seeds are
    distinct. Labels name the settings in which the curves differ; if none do, seeds and
    then folders.

    Args:
        run_dirs: run directories; a run with `--seeds` has several agents.
        metric: a name in metrics.jsonl, instead of the returns.
        each: one curve per agent.

    Raises:
        UserError: not a run directory, a corrupt file, or an unknown metric.
    """
    return [
        replace(
            average([read_curve(folder, metric) for folder in folders]), label=label
        )
        for label, folders in group_agents(run_dirs, each=each)
    ]


def group_agents(
    run_dirs: Sequence[Path], *, each: bool = False
) -> list[tuple[str, list[Path]]]:
    """Agents grouped as `read_curves` does: (label, folders) of each arm.

    Args:
        run_dirs: run directories; a run with `--seeds` has several agents.
        each: a group per agent.

    Raises:
        UserError: not a run directory.
    """
    folders = [folder for run_dir in run_dirs for folder in agents(run_dir)]
    groups: list[list[Path]] = []
    for members in _by_settings(folders):
        seeds = {read_config(folder)["seed"] for folder in members}
        one = not each and len(seeds) == len(members)
        groups += [members] if one else [[member] for member in members]
    return list(zip(_labels(groups), groups, strict=True))


def group_runs(run_dirs: Sequence[Path]) -> list[tuple[str, list[Path]]]:
    """Runs grouped by settings other than the seed: (label, directories) of each arm.

    Raises:
        UserError: not a run directory.
    """
    groups = _by_settings(run_dirs)
    return list(zip(_labels(groups), groups, strict=True))


def _by_settings(folders: Sequence[Path]) -> list[list[Path]]:
    arms: dict[str, list[Path]] = {}
    for folder in folders:
        key = str(sorted(settings_of(folder).items(), key=str))
        arms.setdefault(key, []).append(folder)
    return list(arms.values())


def average(curves: Sequence[Curve]) -> Curve:
    """The mean curve over agents; a single curve is returned unchanged."""
    if len(curves) == 1:
        return curves[0]
    return Curve(
        curves[0].label,
        _mean([curve.evaluation for curve in curves]),
        _mean([curve.episodes for curve in curves]),
        sorted(seed for curve in curves for seed in curve.seeds),
    )


def _mean(series: Sequence[Series]) -> Series:
    """The mean at every step of any agent, over the agents whose range contains it.

    Values and times of an agent are interpolated linearly between its points.
    """
    series = [one for one in series if one.steps]
    steps = sorted({step for one in series for step in one.steps})
    values = np.full((len(series), len(steps)), np.nan)
    minutes = np.full((len(series), len(steps)), np.nan)
    for row, one in enumerate(series):
        inside = (np.array(steps) >= one.steps[0]) & (np.array(steps) <= one.steps[-1])
        at = np.array(steps)[inside]
        values[row, inside] = np.interp(at, one.steps, one.values)
        minutes[row, inside] = np.interp(at, one.steps, one.minutes)
    # A step outside of every agent's range has no value.
    there = np.isfinite(values)
    count = there.sum(0)
    kept = count > 0
    values, minutes, count = values[:, kept], minutes[:, kept], count[kept]
    mean = np.nansum(values, 0) / count if len(series) else np.zeros(0)
    squares = np.nansum((values - mean) ** 2, 0)
    spread = np.sqrt(squares / np.maximum(count - 1, 1))
    clock = np.nansum(minutes, 0) / count if len(series) else np.zeros(0)
    return Series(
        [step for step, keep in zip(steps, kept, strict=True) if keep],
        clock.tolist(),
        mean.tolist(),
        spread.tolist(),
        count.tolist(),
    )


def settings_of(run_dir: Path) -> Settings:
    """The settings of a run that affect training, by flag, without the seed.

    A setting that is missing has its default: the run is older than the setting. Those
    of the penalty are left out if there is none.
    """
    return _by_flag(read_config(run_dir))


def _usual(preset: str, settings: Settings) -> Settings:
    """A preset's settings, with the penalty coefficients for the run's target."""
    values = preset_values(preset)
    name = "--penalty-target"
    if name in settings:
        suited = for_target(values, {name: settings[name]})
        usual = values.get(name, Config().penalty.target)
        values = suited | {name: usual}
    return _by_flag(asdict(build(values)))


def _by_flag(config: dict[str, Any]) -> Settings:
    usual = asdict(Config())
    without = _value(config, ("penalty", "implementation"), usual) == "none"
    idle = _LEFT_OUT | (_OF_PENALTY if without else frozenset())
    found = {}
    for flag in flags(Config):
        value = _value(config, flag.path, usual)
        if flag.name not in idle and value is not None:
            found[flag.name] = value
    if found.get("--penalty") == "pallas":  # the same computation, on a GPU
        found["--penalty"] = "xla"
    return found


def _value(config: Any, path: tuple[str, ...], usual: Any) -> Any:
    """A setting, or its default where the configuration does not have it."""
    for name in path:
        usual = usual[name]
        config = config[name] if isinstance(config, dict) and name in config else usual
    return config


def differing(found: Sequence[Settings]) -> list[str]:
    """The flags, but for the task's, whose values are not the same in all settings.

    Those of the penalty are compared where there is one.
    """
    names = dict.fromkeys(name for settings in found for name in settings)
    return [n for n in names if n != "--env" and len(_values(n, found)) > 1]


def _values(name: str, found: Sequence[Settings]) -> set[str]:
    """The distinct values of a setting; one of the penalty, where there is one.

    Beside a run without penalty, what another penalizes is worth a word where it is not
    the usual.
    """
    have = [x for x in found if name not in _OF_PENALTY or x["--penalty"] != "none"]
    values = {str(settings.get(name)) for settings in have}
    if name == "--penalty-target" and len(have) < len(found):
        values.add(Config().penalty.target)
    return values


def _labels(groups: Sequence[Sequence[Path]]) -> list[str]:
    """A label per curve; where several would have the same, with the folder."""
    labels = label_arms([arm_of(members) for members in groups])
    return [
        printable(f"{label} ({members[0].resolve().name})")
        if labels.count(label) > 1
        else label
        for label, members in zip(labels, groups, strict=True)
    ]


class Arm(NamedTuple):
    """What runs that differ only in their seed have in common, and their number."""

    preset: str
    settings: Settings
    runs: int
    seed: int
    """Of the first run."""


def arm_of(members: Sequence[Path]) -> Arm:
    """The arm of these runs.

    Raises:
        UserError: not a run directory.
    """
    first = read_config(members[0])
    return Arm(
        str(first.get("preset")), _by_flag(first), len(members), int(first["seed"])
    )


def label_arms(arms: Sequence[Arm]) -> list[str]:
    """A label per arm: task, settings that differ between arms, seeds.

    If presets differ, a label has the preset and the settings that deviate from it.
    What an arm does without is not in its label, but for a penalty.
    """
    presets = {arm.preset for arm in arms}
    several = len(presets) > 1 and presets <= set(PRESETS)
    names = differing([arm.settings for arm in arms])
    labels = []
    for preset, settings, runs, seed in arms:
        parts = [settings["--env"], *([f"preset {preset}"] if several else [])]
        usual = _usual(preset, settings) if several else {}
        parts += [
            f"{name} {settings.get(name, 'none')}"
            for name in names
            if (name not in usual or usual[name] != settings.get(name))
            and not (name in _OF_PENALTY and settings["--penalty"] == "none")
            and not _goes_without_saying(name, settings)
        ]
        parts.append(f"seed {seed}" if runs == 1 else f"{runs} seeds")
        labels.append(printable(", ".join(parts)))
    return labels


def _goes_without_saying(name: str, settings: Settings) -> bool:
    """Whether an arm lacks what others have, or its penalty coefficient is constant."""
    if name == "--lambda-min":
        return settings.get(name) == settings.get("--lambda0")
    return name != "--penalty" and settings.get(name) == "none"
