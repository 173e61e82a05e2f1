"""Check that a run directory can be resumed with this configuration."""

import dataclasses
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from train.checkpoint.checkpointer import Checkpointer
from train.config import Config
from train.errors import UserError, logdir_errors
from train.run_dir import record
from train.run_dir.provenance import compiler_flags, jax_settings


def check_resume(config: Config, run_dir: Path) -> list[str]:
    """Compare the directory's configuration with this one.

    Returns:
        Lines for the user about changes that are allowed.

    Raises:
        UserError: `--resume must` without a checkpoint, `--resume never` with one, a
            setting that must not change, a configuration that cannot be read
            or is missing beside checkpoints, or an impossible path.
    """
    stored, log = run_dir / "config.json", run_dir / "metrics.jsonl"
    with logdir_errors(run_dir):
        steps = Checkpointer(run_dir).steps()
        # With several seeds each has its own log.
        logs = [log, *run_dir.glob("seed_*/metrics.jsonl")]
        trained = bool(steps) or any(p.exists() and p.stat().st_size for p in logs)
        has_config = stored.exists()
    if config.resume == "must" and not steps:
        raise UserError(
            f"--resume must: {run_dir} holds no checkpoint; allowed: --resume auto"
        )
    if config.resume == "never" and steps:
        raise UserError(
            f"--resume never: {run_dir} holds checkpoints up to step {steps[-1]}; "
            "allowed: another --logdir, or --resume auto to go on"
        )
    if not (steps or has_config):
        return []
    try:
        difference = record.diff(record.read(stored), config)
    except UserError as error:
        if config.allow_changes:
            return [f"not compared: {error}"]
        raise UserError(
            f"{error}; allowed: another --logdir, or --allow-changes, which goes on "
            "without comparing"
        ) from None
    if trained and difference.refused and not config.allow_changes:
        raise UserError(
            f"--logdir {run_dir} holds a run with another configuration "
            f"({'; '.join(difference.refused)}); allowed: another --logdir, or "
            "--allow-changes"
        )
    if not trained:
        return []
    settings = changed_settings(run_dir)
    if settings.refused and not config.allow_changes:
        raise UserError(
            f"--logdir {run_dir} holds a run with other settings of JAX "
            f"({'; '.join(settings.refused)}); allowed: these environment variables as "
            "they were, another --logdir, or --allow-changes"
        )
    found = (difference.allowed, difference.refused, settings.allowed, settings.refused)
    return [line for lines in found for line in lines]


def keep_replay_size(
    config: Config, run_dir: Path, given: Collection[str]
) -> tuple[Config, list[str]]:
    """The configuration with the size of the replay buffer that the directory holds.

    By default the buffer holds every decision of the run, so more `--steps` would ask
    for a larger one; a stored buffer is not resized.

    Args:
        given: flags on the command line. A `--replay-size` among them stands.

    Returns:
        The configuration, and a line for the user if that changed it.
    """
    if "--replay-size" in given:
        return config, []
    try:
        stored = record.read(run_dir / "config.json").replay_capacity
        saved = bool(Checkpointer(run_dir).steps())
    except (UserError, OSError):  # `check_resume` says so
        return config, []
    # A smaller buffer than learning needs is refused, by the other flags' names.
    if not saved or not config.learning_starts <= stored < config.replay_capacity:
        return config, []
    line = (
        f"replay       the stored replay buffer keeps its size of {stored:,} "
        "decisions; --replay-size sets another, in a new --logdir"
    )
    return dataclasses.replace(config, replay_size=stored), [line]


def changed_settings(run_dir: Path) -> record.Difference:
    """What differs in JAX's settings from the last start, as `NAME: old -> new`.

    Settings that change types or random numbers are among the refused ones, flags of
    the compilers among the allowed ones. A start that recorded none is not compared.
    """
    try:
        lines = (run_dir / "starts.jsonl").read_text(encoding="utf-8").splitlines()
        last = json.loads(lines[-1])
        before, flags = dict(last["settings"]), dict(last["compiler"])
    except (OSError, ValueError, IndexError, KeyError, TypeError):
        return record.Difference([], [])

    def lines_of(old: dict[str, Any], new: dict[str, Any], names: list[str]):
        changed = [name for name in names if old.get(name) != new.get(name)]
        return [f"{name}: {old.get(name)} -> {new.get(name)}" for name in changed]

    after, compiler = jax_settings(), compiler_flags()
    # Another version of JAX may have other settings.
    both = [name for name in before if name in after]
    return record.Difference(
        allowed=lines_of(flags, compiler, sorted({*flags, *compiler})),
        refused=lines_of(before, after, both),
    )
