"""From the words on the command line to a `Config`.

The words are looked through here, with our own one-line messages, before tyro reads
them: tyro draws several lines in a box, and its types know neither 1e6 for an integer
nor the ranges. What passes is handed to tyro in canonical form.
"""

import contextlib
import dataclasses
import difflib
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tyro

from train.config.fields import Flag, allowed_values, did_you_mean, flags, parse_value
from train.config.presets import (
    PresetChoice,
    build,
    preset_values,
    resolve_preset,
)
from train.config.schema import Config
from train.errors import UserError

PROGRAM = "python -m train.main"
DESCRIPTION = f"""Train a DreamerV3 agent with smooth latent dynamics (GPLD).

  {PROGRAM} --env walker --penalty pallas
  {PROGRAM} --preset gpld --penalty none      (the paper's baseline)

Values that are not given come from the preset; the same command resumes a run."""

# What other projects call our flags: spelling alone would suggest something else.
_SYNONYMS = {
    "--lr": "--learning-rate",
    "--lambda": "--lambda0",
    "--horizon": "--imagination-length",
    "--gamma": "--discount-horizon",
    "--discount": "--discount-horizon",
    "--task": "--env",
    "--fraction": "--rho",
}


class Words(NamedTuple):
    """A command line that was understood."""

    values: dict[str, Any]
    """Value of every flag given, by the flag's name."""
    help: bool


def read_words(argv: Sequence[str], options: type = Config) -> Words:
    """Read flags and values, checking each by itself.

    `--flag value` and `--flag=value` mean the same, as do `-` and `_` inside a name;
    of a flag given twice, the last counts.

    Args:
        argv: the words after the program's name.
        options: the dataclass whose fields are the flags.

    Raises:
        UserError: an unknown flag, a missing value, or one that is not allowed.
    """
    known = {flag.name: flag for flag in flags(options)}
    switches = {flag.name for flag in known.values() if flag.kind is bool}
    switches |= {"--no-" + name.removeprefix("--") for name in switches}
    values: dict[str, Any] = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        if word in ("-h", "--help"):
            return Words(values, help=True)
        if not word.startswith("-"):
            raise UserError(
                f"{word}: belongs to no flag; allowed: --flag value"
                f"{_nearest_flag('--' + word, known)}"
            )
        name, equals, text = word.partition("=")
        name = name.replace("_", "-")
        if name in switches:
            if equals or (words and words[0].lower() in ("true", "false", "0", "1")):
                given = text if equals else words[0]
                positive = "--" + name.removeprefix("--").removeprefix("no-")
                raise UserError(
                    f"{name} {given}: takes no value; allowed: {positive} or "
                    f"--no-{positive.removeprefix('--')}"
                )
            values[
                "--" + name.removeprefix("--").removeprefix("no-")
            ] = not name.startswith("--no-")
            continue
        if name not in known:
            raise UserError(f"{name}: unknown flag{_nearest_flag(name, known)}")
        if not equals:
            if not words or words[0].startswith("--"):
                raise UserError(
                    f"{name}: no value given; allowed: {allowed_values(known[name])}"
                )
            text = words.pop(0)
        values[name] = parse_value(known[name], text)
    return Words(values, help=False)


def _nearest_flag(name: str, known: Mapping[str, Flag]) -> str:
    plain = "--" + name.lstrip("-").lower()
    if _SYNONYMS.get(plain) in known:
        return f"; nearest valid: {_SYNONYMS[plain]}"
    longer = [flag for flag in known if flag.startswith(plain)]
    # The beginning of a flag's name is close to it, however short it is.
    cutoff = 0.0 if longer else 0.6
    names = [flag[2:] for flag in longer or known]  # the dashes would count as likeness
    close = difflib.get_close_matches(plain[2:], names, n=1, cutoff=cutoff)
    if not close:
        return "; --help lists all flags"
    return f"; nearest valid: --{close[0]} (--help lists all)"


def parse(
    argv: Sequence[str],
    platform: str | Callable[[], str],
) -> Config:
    """The configuration that a command line asks for.

    The preset comes first (`--preset`, or the one that suits the device), then the
    other flags. `preset` and `env` of the result are the resolved names.

    Args:
        argv: the words after the program's name.
        platform: `jax.default_backend()`, or a function returning it, which is called
            only once the flags by themselves are in order.

    Raises:
        UserError: the command line is not understood or not allowed.
        SystemExit: with code 0, after printing the help that was asked for.
    """
    words = read_words(argv)
    if words.help:
        _print_help(words.values.get("--preset", "auto"))
    if callable(platform):
        platform = platform()
    defaults = preset_values(words.values.get("--preset", "auto"), platform=platform)
    _check_penalty_wanted(defaults, words.values)
    config = _build_by_tyro(build(defaults), words.values)
    return dataclasses.replace(config, env=_known_env(config.env))


def preset_choice(
    argv: Sequence[str], platform: str | Callable[[], str]
) -> PresetChoice:
    """The preset that `parse` takes for these arguments, and why."""
    name = read_words(argv).values.get("--preset", "auto")
    return resolve_preset(name, platform=platform() if callable(platform) else platform)


def _build_by_tyro(default: Config, values: Mapping[str, Any]) -> Config:
    canonical: list[str] = []
    for name, value in values.items():
        if isinstance(value, bool):
            canonical.append(name if value else "--no-" + name.removeprefix("--"))
        elif name != "--preset":
            canonical += [name, str(value)]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            return _tyro(canonical, default)
    except SystemExit:
        reason = " ".join(said.getvalue().split())
        raise UserError(f"{' '.join(canonical)}: {reason}") from None


def _print_help(preset: str) -> None:
    defaults = preset_values(preset, platform="cpu")
    _tyro(["--help"], Config() if preset == "auto" else build(defaults))


def _tyro(args: Sequence[str], default: Config) -> Config:
    return tyro.cli(
        Config,
        prog=PROGRAM,
        description=DESCRIPTION,
        args=args,
        default=default,
        config=(tyro.conf.OmitArgPrefixes,),
    )


def _check_penalty_wanted(
    defaults: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
    """Refuse flags of a penalty that the preset, not the user, has turned off."""
    if defaults.get("--penalty") != "none" or "--penalty" in given:
        return
    for flag in flags(Config):
        if flag.path[0] == "penalty" and flag.name in given:
            raise UserError(
                f"{flag.name} {given[flag.name]}: has no effect with --preset "
                f"{defaults['--preset']}, which has no penalty; add --penalty xla "
                "(allowed: reference, xla, pallas)"
            )


def _known_env(name: str) -> str:
    # Imported only here: it brings in JAX and MuJoCo, and typing errors should not
    # wait for them.
    import envs

    try:
        return envs.canonical_name(name)
    except ValueError as error:
        if ":" in name:
            raise UserError(f"--env {name}: {error}") from None
        raise UserError(
            f"--env {name}: unknown; allowed: {', '.join(envs.TASKS)}"
            f"{did_you_mean(name, envs.TASKS)}"
        ) from None
