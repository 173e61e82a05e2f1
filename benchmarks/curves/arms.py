"""Group runs that differ only in their seed into arms, and label the arms."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from train.config import Config
from train.config.fields import flags
from train.config.presets import PRESETS, build, for_target, preset_values
from train.errors import printable
from train.run_dir.curve import Curve, Series, agents, read_config, read_curve
from train.run_dir.record import MAY_CHANGE

Settings = dict[str, Any]


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
    folders = [folder for run_dir in run_dirs for folder in agents(run_dir)]
    read = [(folder, read_curve(folder, metric)) for folder in folders]
    arms: dict[tuple[Any, ...], list[tuple[Path, Curve]]] = {}
    for folder, curve in read:
        key = tuple(sorted(_settings(folder).items(), key=str))
        arms.setdefault(tuple(map(str, key)), []).append((folder, curve))
    groups: list[list[tuple[Path, Curve]]] = []
    for members in arms.values():
        seeds = [curve.seeds[0] for _, curve in members]
        one = not each and len(set(seeds)) == len(seeds)
        groups += [members] if one else [[member] for member in members]
    labels = _labels([[folder for folder, _ in members] for members in groups])
    return [
        replace(average([curve for _, curve in members]), label=label)
        for members, label in zip(groups, labels, strict=True)
    ]


def group_runs(run_dirs: Sequence[Path]) -> list[tuple[str, list[Path]]]:
    """Runs grouped by settings other than the seed: (label, directories) of each arm.

    Raises:
        UserError: not a run directory.
    """
    arms: dict[str, list[Path]] = {}
    for run_dir in run_dirs:
        arms.setdefault(str(sorted(_settings(run_dir).items(), key=str)), []).append(
            run_dir
        )
    groups = list(arms.values())
    return list(zip(_labels(groups), groups, strict=True))


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


def _settings(run_dir: Path) -> Settings:
    """The settings of a run that affect training, by flag, without the seed."""
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
    left_out = MAY_CHANGE | {"--seed", "--seeds", "--sweep"}
    found = {
        flag.name: value
        for flag in flags(Config)
        if flag.name not in left_out
        and (value := _value(config, flag.path)) is not None
    }
    if found.get("--penalty") == "pallas":  # the same computation, on a GPU
        found["--penalty"] = "xla"
    return found


def _value(config: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        config = config.get(name) if isinstance(config, dict) else None
    return config


def _labels(groups: Sequence[Sequence[Path]]) -> list[str]:
    """A label per curve: task, settings that differ between curves, seeds.

    If presets differ, a label has the preset and the settings that deviate from it.
    """
    found = [_settings(members[0]) for members in groups]
    presets = [str(read_config(members[0]).get("preset")) for members in groups]
    several = len(set(presets)) > 1 and set(presets) <= set(PRESETS)
    names = {name: None for settings in found for name in settings if name != "--env"}
    differing = [
        name
        for name in names
        if len({str(settings.get(name)) for settings in found}) > 1
    ]
    labels = []
    for members, settings, preset in zip(groups, found, presets, strict=True):
        parts = [settings["--env"], *([f"preset {preset}"] if several else [])]
        usual = _usual(preset, settings) if several else {}
        parts += [
            f"{name} {settings.get(name, 'none')}"
            for name in differing
            if name not in usual or usual[name] != settings.get(name)
        ]
        seed = read_config(members[0])["seed"]
        count = len(members)
        parts.append(f"seed {seed}" if count == 1 else f"{count} seeds")
        labels.append(", ".join(parts))
    return [
        printable(f"{label} ({members[0].resolve().name})")
        if labels.count(label) > 1
        else printable(label)
        for label, members in zip(labels, groups, strict=True)
    ]
