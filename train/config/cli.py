"""Parse the command line into a `Config`.

Why not tyro alone: its errors take several lines, and it accepts neither 1e6 for an
integer nor ranges. tyro writes the help.
"""

import contextlib
import dataclasses
import difflib
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

import tyro

from train.config import sweep
from train.config.fields import (
    Flag,
    allowed_values,
    did_you_mean,
    flags,
    invalid,
    parse_value,
)
from train.config.grouped import grouped
from train.config.hints import env_hint, flag_hint
from train.config.presets import (
    PRESETS,
    PresetChoice,
    build,
    for_target,
    preset_values,
    resolve_preset,
)
from train.config.schema import Config
from train.errors import UserError

PROGRAM = "python -m train.main"
DESCRIPTION = f"""Train a DreamerV3 agent with smooth latent dynamics (GPLD).

  {PROGRAM} --env walker --penalty pallas
  {PROGRAM} --preset gpld --penalty none      (the paper's baseline)

Values that are not given come from the preset; the same command resumes a run.
--list-envs, --list-presets and --print-config (all settings of a command, as JSON)
print and end; so does --print-completion bash|zsh, for the command smooth-dreamer,
which is this program (docs/faq.md)."""
COMMAND = "smooth-dreamer"
SHELLS = ("bash", "zsh")
_LISTS = ("--list-envs", "--list-presets", "--print-config")


class Words(NamedTuple):
    """Flag values as given, each checked by itself."""

    values: dict[str, Any]
    """Value of every flag given, by the flag's name."""
    help: bool


def read_words(argv: Sequence[str], options: type = Config) -> Words:
    """Read flags and values, checking each by itself.

    `--flag value` and `--flag=value` mean the same, as do `-` and `_` inside a name;
    of a flag given twice, the last counts; several `--sweep` are one.

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
    words, wants_help = list(argv), False
    while words:
        word = words.pop(0)
        if word in ("-h", "--help"):
            wants_help = True  # of the preset that a later word may name
            continue
        if not word.startswith("-"):
            name, _, text = word.partition("=")  # as hydra has it
            raise UserError(
                f"{word}: belongs to no flag; allowed: --flag value"
                f"{_nearest_flag('--' + name, text, known)}"
            )
        name, equals, text = word.partition("=")
        name = name.replace("_", "-")
        if name in switches:
            positive = "--" + name.removeprefix("--").removeprefix("no-")
            if equals or (words and words[0].lower() in ("true", "false", "0", "1")):
                given = text if equals else words[0]
                negative = "--no-" + positive.removeprefix("--")
                raise invalid(
                    name, given, "takes no value", f"{positive} or {negative}"
                )
            values[positive] = not name.startswith("--no-")
            continue
        if name not in known:
            value = text if equals else next(iter(words), None)
            raise UserError(f"{name}: unknown flag{_nearest_flag(name, value, known)}")
        if not equals:
            if not words or words[0].startswith("--"):
                allowed = allowed_values(known[name])
                raise UserError(f"{name}: no value given; allowed: {allowed}")
            text = words.pop(0)
        value = parse_value(known[name], text)
        if known[name].joined and name in values:
            value = f"{values[name]} {value}"
        values[name] = value
    return Words(values, wants_help)


def read_options[T](
    argv: Sequence[str],
    options: type[T],
    *,
    program: str,
    description: str,
    required: Mapping[str, str] = MappingProxyType({}),
) -> T:
    """The options of a program other than `train.main`, as a dataclass.

    Args:
        required: flags that must be given, and what they are, in words.

    Raises:
        UserError: the command line is not understood or not allowed.
        SystemExit: with code 0, after printing the help that was asked for.
    """
    words = read_words(argv, options)
    if words.help:
        tyro.cli(options, prog=program, description=description, args=["--help"])
    for flag, what in required.items():
        if flag not in words.values:
            raise UserError(f"{flag}: not given; allowed: {what}")
    values = {name[2:].replace("-", "_"): x for name, x in words.values.items()}
    return options(**values)


def _nearest_flag(name: str, value: str | None, known: Mapping[str, Flag]) -> str:
    hint = flag_hint(name, value, known)
    if hint is not None:
        return f"; {hint}"
    plain = "--" + name.lstrip("-").lower()
    longer = [flag for flag in known if flag.startswith(plain)]
    # The beginning of a flag's name is close to it, however short it is.
    cutoff = 0.0 if longer else 0.6
    names = [flag[2:] for flag in longer or known]  # the dashes would count as likeness
    close = difflib.get_close_matches(plain[2:], names, n=1, cutoff=cutoff)
    if not close:
        return "; --help lists all flags"
    return f"; nearest valid: --{close[0]} (--help lists all)"


class Command(NamedTuple):
    """The resolved configuration and its preset."""

    config: Config
    """`preset`, `env` and the penalty's coefficients are resolved."""
    preset: PresetChoice
    """The preset that the flags start from, and why."""
    given: frozenset[str]
    """The flags on the command line."""


def read_command(
    argv: Sequence[str],
    start: Callable[[Mapping[str, Any]], str],
    read_run: Callable[[str], Config] | None = None,
) -> Command:
    """Understand a command line.

    The preset comes first (`--preset`, or the one that suits the device; with `--fork`
    the values of the forked run), then the other flags.

    Args:
        argv: the words after the program's name.
        start: starts JAX from the values of the flags given, and returns
            `jax.default_backend()`. It is called only once each flag by itself is
            valid.
        read_run: the configuration of a run directory, for `--fork`.

    Raises:
        UserError: the command line is not understood or not allowed.
        SystemExit: with code 0, after printing the help that was asked for.
    """
    if "--print-completion" in argv:
        _print_completion(list(argv))
    shown = [word for word in argv if word in _LISTS]
    words = read_words([word for word in argv if word not in _LISTS])
    if "--list-envs" in shown:
        print("\n".join(_task_lines()))
    if "--list-presets" in shown:
        print("\n".join(_preset_lines()))
    if shown and "--print-config" not in shown:
        raise SystemExit(0)
    asked = words.values.get("--preset", "auto")
    if words.help:
        _print_help(asked, words.values, start({}))
    given = {name: x for name, x in words.values.items() if name != "--preset"}
    if (fork := given.get("--fork")) and read_run:
        if "--preset" in words.values:
            why = "the flags of a fork start from those of the forked run"
            raise invalid("--preset", asked, why, "leave it out, or leave out --fork")
        parent = read_run(fork)
        start(words.values)
        choice = PresetChoice(parent.preset, f"as the forked run {fork}")
        preset = _inherited(parent)
        if "--steps" in given:  # the stored replay buffer is not resized
            preset["--replay-size"] = parent.replay_capacity
    else:
        choice = resolve_preset(asked, platform=start(words.values))
        preset = preset_values(choice.name)
        _check_penalty_wanted(preset, words.values)
    if "--sweep" in given:
        given["--sweep"] = _sweep(given)
    config = build(for_target(preset, given) | given)
    config = dataclasses.replace(config, env=_known_env(config.env))
    if "--print-config" in shown:
        print(json.dumps(dataclasses.asdict(config), indent=2))
        raise SystemExit(0)
    return Command(config, choice, frozenset(words.values))


def _sweep(given: Mapping[str, Any]) -> str:
    """The sweep as runs are compared by it.

    Raises:
        UserError: it is not allowed, or not together with the other flags.
    """
    if given.get("--fork"):
        why = "a fork has the agents of the forked run"
        raise invalid("--sweep", given["--sweep"], why, "without --fork")
    for name in sweep.read(Config, given["--sweep"]):
        if name in given:
            why = "is swept as well"
            raise invalid(name, given[name], why, f"{name} or --sweep {name[2:]}=...")
    return sweep.canonical(Config, given["--sweep"])


def parse(argv: Sequence[str], platform: str | Callable[[], str]) -> Config:
    """The configuration that a command line asks for.

    Args:
        argv: the words after the program's name.
        platform: `jax.default_backend()`, or a function returning it, which is called
            only once each flag by itself is valid.

    Raises:
        UserError: the command line is not understood or not allowed.
        SystemExit: with code 0, after printing the help that was asked for.
    """

    def start(_: Mapping[str, Any]) -> str:
        return platform() if callable(platform) else platform

    return read_command(argv, start).config


def _inherited(parent: Config) -> dict[str, Any]:
    """The values of a run's flags, less those that say where and on what it ran."""
    values: dict[str, Any] = {}
    for flag in flags(Config):
        if flag.path[0] not in ("logdir", "resume", "allow_changes", "origin", "scale"):
            value: Any = parent
            for name in flag.path:
                value = getattr(value, name)
            values[flag.name] = value
    return values


def _print_help(asked: str, given: Mapping[str, Any], platform: str) -> None:
    """Print the help with the defaults of a preset.

    Args:
        asked: the preset, or `auto`.
        given: values of flags; --penalty-target alone counts, as defaults follow it.
        platform: `jax.default_backend()`.
    """
    choice = resolve_preset(asked, platform=platform)
    target = {name: x for name, x in given.items() if name == "--penalty-target"}
    tasks = "\n".join("  " + line for line in _task_lines())
    kind, values = grouped(
        build(for_target(preset_values(choice.name), target) | target)
    )
    tyro.cli(
        kind,
        prog=PROGRAM,
        description=f"""{DESCRIPTION}

Defaults below: preset {choice.name} ({choice.reason}).
Presets: {", ".join(PRESETS)}; --preset NAME --help shows another's defaults.

Tasks, beside toys and your own (docs/environments.md):
{tasks}""",
        args=["--help"],
        default=values,
        config=(tyro.conf.OmitArgPrefixes,),
    )


def _print_completion(words: list[str]) -> NoReturn:
    """Print what makes a shell complete the flags.

    Raises:
        UserError: no such shell, or further words.
        SystemExit: with code 0, once it is printed.
    """
    given = " ".join(word for word in words if word != "--print-completion")
    if given not in SHELLS:
        why = "no shell" if given else "no value given"
        raise invalid("--print-completion", given, why, " or ".join(SHELLS))
    kind, values = grouped(Config())
    script = io.StringIO()
    # tyro's exit has no code.
    with contextlib.redirect_stdout(script), contextlib.suppress(SystemExit):
        tyro.cli(
            kind,
            prog=COMMAND,
            default=values,
            config=(tyro.conf.OmitArgPrefixes,),
            args=["--tyro-print-completion", given],
        )
    # The flags are one literal in a line. Every line of a help text in it would be
    # offered as a flag, so each text gets one line.
    for line in script.getvalue().splitlines():
        literal = line.startswith("COMPLETION_SPEC")
        print(line.replace("\\n", " ") if literal else line)
    raise SystemExit(0)


def _task_lines() -> list[str]:
    """All tasks, a line for each domain."""
    import envs

    domains: dict[str, list[str]] = {}
    for task in envs.TASKS:
        domains.setdefault(task.partition("-")[0], []).append(task)
    return [" ".join(names) for names in domains.values()]


def _preset_lines() -> list[str]:
    """Each preset with the flags that it stands for."""

    def written(flag: str, value: Any) -> str:
        if isinstance(value, bool):
            return flag if value else f"--no-{flag[2:]}"
        return f"{flag} {value}"

    return [
        f"{name}: " + " ".join(written(*each) for each in values.items())
        for name, values in PRESETS.items()
    ]


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
    own = env_hint(name)
    if own is not None:
        allowed = "a task (--help lists them), or module:factory for one of your own"
        raise invalid("--env", name, "no task", allowed, own)
    # What Gymnasium's names have around dm_control's: dm_control/walker-walk-v0.
    bare = re.sub(r"-?v\d+$", "", name.rpartition("/")[2].lower()).replace("_", "-")
    allowed = ", ".join(envs.TASKS)
    near = did_you_mean(bare.removeprefix("dmc-"), envs.TASKS)
    raise UserError(f"--env {name}: unknown; allowed: {allowed}{near}")
