"""A run's configuration on disk: written, read back, compared, and named after."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from train.config import Config
from train.config.fields import Flag, check_value, did_you_mean, flags
from train.config.presets import build, for_target, preset_values
from train.errors import UserError

# Settings that do not change what is trained.
MAY_CHANGE = frozenset(
    {
        "--steps",
        "--eval-every",
        "--eval-episodes",
        "--eval-policy",
        "--eval-max-decisions",
        "--trust-every",
        "--log-every",
        "--save-every",
        "--keep",
        "--keep-at",
        "--keep-every",
        "--logdir",
        "--wandb",
        "--resume",
        "--allow-changes",
        "--require-gpu",
        "--devices",
        "--coordinator",
        "--num-processes",
        "--process-id",
        "--coordinator-timeout",
        "--preset",  # a name for values that are compared themselves
    }
)

# Settings whose value says in a run's name what it is, and the longest name.
_WITHOUT_NAME = frozenset({"--obs", "--size", "--penalty", "--precision", "--augment"})
_LONGEST = 100


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as nested dictionaries that JSON can hold."""
    return dataclasses.asdict(config)


def from_dict(record: Mapping[str, Any]) -> Config:
    """The configuration written by `to_dict`.

    A missing key takes its default, so that runs from before a setting existed can
    still be read.

    Raises:
        UserError: an unknown key, or a value that is not allowed.
    """
    return _read(Config, record, prefix="")


def _read[T](cls: type[T], record: Mapping[str, Any], *, prefix: str) -> T:
    known = {field.name: field for field in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]
    unknown = [key for key in record if key not in known]
    if unknown:
        names = ", ".join(prefix + key for key in unknown)
        raise UserError(f"config: unknown key {names}{did_you_mean(unknown[0], known)}")
    values: dict[str, Any] = {}
    leaves = {f.path[0]: f for f in flags(cls) if len(f.path) == 1}
    for key, value in record.items():
        if key in leaves:
            check_value(leaves[key], value)
            whole = leaves[key].kind is float and isinstance(value, int)
            values[key] = float(value) if whole else value
        elif isinstance(value, Mapping):
            part = type(known[key].default)
            values[key] = _read(part, value, prefix=f"{prefix}{key}.")
        else:
            raise UserError(f"config: {prefix}{key} {value!r}: expected an object")
    return cls(**values)


def write(config: Config, path: pathlib.Path) -> None:
    """Write the configuration as JSON; a reader sees the old file or the new one.

    So does one after a power cut: of all files this one is forced to the disk.
    """
    text = json.dumps(to_dict(config), indent=2) + "\n"
    with contextlib.suppress(OSError, ValueError):
        if path.read_text() == text:
            return
    scratch = path.with_name(path.name + ".tmp")
    with scratch.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)


def read(path: pathlib.Path) -> Config:
    """Read a configuration written by `write`.

    Raises:
        UserError: the file is missing, is not JSON, or holds what is not allowed.
    """
    try:
        record = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(record, dict):
        raise UserError(f"{path}: expected a JSON object")
    try:
        return from_dict(record)
    except UserError as error:
        author = written_by(path.parent)
        raise UserError(f"{path}: {error} (written by {author})") from None


def written_by(run_dir: pathlib.Path) -> str:
    """The version that last trained in a run directory, for error messages."""
    try:
        lines = (run_dir / "starts.jsonl").read_text(encoding="utf-8").splitlines()
        last = json.loads(lines[-1])
        version = f"smooth-dreamer {last['versions']['smooth-dreamer']}"
        return version + (f" at commit {last['commit'][:10]}" if last["commit"] else "")
    except (OSError, ValueError, LookupError, TypeError):
        return "an unknown version"


def read_run(run_dir: str | pathlib.Path, flag: str = "--run") -> Config:
    """The configuration that a run was trained with.

    Args:
        flag: that named the directory, for the message.

    Raises:
        UserError: the directory does not exist or is not one of a run.
    """
    run = pathlib.Path(run_dir).expanduser()
    path = run / "config.json"
    try:
        if path.exists():
            return read(path)
        beside = run.absolute().parent
        known = [str(run.parent / p.parent.name) for p in beside.glob("*/config.json")]
        near = did_you_mean(str(run), known)
        reason = "holds no config.json" if run.is_dir() else "no such directory"
    except OSError as error:
        near, reason = "", f"cannot be read ({error.strerror})"
    raise UserError(f"{flag} {run}: {reason}; allowed: the directory of a run{near}")


class Difference(NamedTuple):
    """Lines `--flag: old -> new`."""

    allowed: list[str]
    """Changes allowed on resume."""
    refused: list[str]
    """Changes refused on resume."""


def diff(old: Config, new: Config) -> Difference:
    """What a resumed run would change.

    The replay holds min(replay_size, decisions) rows: what counts is that number, so
    a run may be prolonged when its replay keeps its size.
    """
    found = Difference([], [])
    for flag in flags(Config):
        before, after = _comparable(old, flag), _comparable(new, flag)
        if before != after:
            may = flag.name in MAY_CHANGE or flag.name == "--replay-size"
            lines = found.allowed if may else found.refused
            lines.append(f"{flag.name}: {before} -> {after}")
    if old.replay_capacity != new.replay_capacity:
        found.refused.append(
            f"replay: {old.replay_capacity} -> {new.replay_capacity} decisions "
            f"(add --replay-size {old.replay_capacity} to keep it)"
        )
    return found


def run_dir(config: Config) -> pathlib.Path:
    """The run directory: `logdir`, or a name under `runs/` made from the settings.

    The name has the task, the preset, the seed and every setting that differs from the
    preset and must not change on resume: `walker-walk-laptop-s0-rho1`. So the same
    command comes back to the same directory and another one does not.

    Raises:
        UserError: `logdir` begins with the home of a user who does not exist.
    """
    if config.logdir:
        try:
            return pathlib.Path(config.logdir).expanduser()
        except RuntimeError:
            raise UserError(
                f"--logdir {config.logdir}: no such user; allowed: a path (./~name "
                "for a folder of that name)"
            ) from None
    words = [config.env, config.preset, f"s{config.seed}", *_differences(config)]
    # A colon, a slash or a space is no file name everywhere.
    name = re.sub(r"[^\w.+-]+", "-", "-".join(words))
    if len(name) > _LONGEST:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name[:_LONGEST]}-{digest}"
    return pathlib.Path("runs") / name


def _differences(config: Config) -> list[str]:
    """What a run's name says of the settings in which it differs from its preset."""
    usual = Config()
    if config.preset != "auto":  # which only a configuration made by hand still has
        target = {"--penalty-target": config.penalty.target}
        usual = build(for_target(preset_values(config.preset), target))
    named = MAY_CHANGE | {"--replay-size", "--env", "--seed"}
    words = []
    for flag in flags(Config):
        value = _comparable(config, flag)
        if flag.name in named or value == _comparable(usual, flag):
            continue
        name = flag.name.removeprefix("--")
        if value is False or value is None or value == "none":
            words.append(f"no-{name}")
        elif value is True:
            words.append(name)
        elif flag.name in _WITHOUT_NAME:
            words.append(str(value))
        else:
            shown = f"{value:.12g}" if isinstance(value, float) else str(value)
            apart = name[-1].isdigit() or not shown[0].isdigit()
            words.append(f"{name}{'_' if apart else ''}{shown}")
    return words


def _comparable(config: Config, flag: Flag) -> Any:
    """A setting as runs are compared by it.

    pallas and xla are two programs for one computation: a run may go on with either.
    """
    value = _get(config, flag.path)
    return "xla" if (flag.name, value) == ("--penalty", "pallas") else value


def _get(config: Config, path: tuple[str, ...]) -> Any:
    value: Any = config
    for name in path:
        value = getattr(value, name)
    return value
