"""A suite file: which tasks, arms and seeds, and with which flags of `train.main`.

    title = "Does the penalty help?"
    common = "--preset laptop --steps 2e5"      # flags of every run
    tasks = ["walker-walk", "cheetah-run"]
    seeds = [0, 1, 2, 3]
    baseline = "none"                           # the arm that others are compared with
    final_episodes = 20                         # played by the final agent of each run
    sensitivity = false                         # benchmarks.sensitivity of each run

    [arms]                                      # what tells them apart
    none = "--penalty none"
    gpld = ""

    [overrides]                                 # of one task, in every arm
    walker-walk = "--steps 3e5"

    [forks]                                     # arms that go on from another arm's run
    late = {of = "none", at = 1e5}              # of the same task and seed

A fork (`train.main --fork`) starts from the first checkpoint of the other run at or
after that step, with that run's flags and, in `arms`, those in which it differs. Of a
flag that is given several times the last counts: common, then the task's, then
the arm's.
"""

import dataclasses
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from train.config import Config
from train.config.cli import parse, read_words
from train.config.fields import did_you_mean
from train.errors import UserError

FILES = Path(__file__).parent / "files"
"""Where the project's own suites are."""
_KEYS = {
    "title": str,
    "common": str,
    "tasks": list,
    "seeds": list,
    "baseline": str,
    "final_episodes": int,
    "sensitivity": bool,
    "arms": dict,
    "overrides": dict,
    "forks": dict,
}
_WORDS = {str: "a text", list: "a list", int: "an integer", dict: "a table"}
_WORDS |= {bool: "true or false"}
_REQUIRED = ("tasks", "arms")
_OURS = {
    "--env": "tasks",
    "--seed": "seeds",
    "--seeds": "seeds",
    "--sweep": "arms",
    "--logdir": "--folder",
    "--fork": "forks",
    "--at": "forks",
    "--keep-at": "forks",
    "--resume": "nothing: a run goes on from its last checkpoint",
    "--allow-changes": "another --folder",
}
"""Flags that the suite itself sets, and what sets them."""
_QUICK = (
    "--preset smoke --steps 400 --prefill 32 --eval-every 200 --eval-episodes 1 "
    "--log-every 100 --save-every 200 --batch-size 2 --batch-length 8 --train-ratio 4"
)
"""Follows all other flags with `--quick`, which also leaves all seeds but one out."""


class Cell(NamedTuple):
    """One run of a suite."""

    task: str
    arm: str
    seed: int

    def __str__(self) -> str:
        return f"{self.task}/{self.arm}/seed-{self.seed}"


class Fork(NamedTuple):
    """Where the runs of an arm begin: at another arm's, from a step on."""

    of: str
    at: int


@dataclasses.dataclass(frozen=True)
class Suite:
    """What a suite file says, checked.

    Attributes:
        name: the file's, without `.toml`.
        seeds: of every task and arm.
        baseline: an arm, or None.
        final_episodes: played with the final agent of each run; 0 for none.
        sensitivity: whether the sensitivities of the final agent are measured.
        flags: words for `train.main`, of every task and arm, without the seed.
        configs: what those words mean, of every task and arm.
        forks: of the arms that are forks.
    """

    name: str
    title: str
    tasks: tuple[str, ...]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    baseline: str | None
    final_episodes: int
    sensitivity: bool
    flags: Mapping[tuple[str, str], tuple[str, ...]]
    configs: Mapping[tuple[str, str], Config]
    forks: Mapping[str, Fork] = dataclasses.field(default_factory=dict)

    def cells(self) -> Iterator[Cell]:
        """All runs; those of one seed together, so that early ones can be compared."""
        for seed in self.seeds:
            for task in self.tasks:
                for arm in self.arms:
                    yield Cell(task, arm, seed)

    def words(self, cell: Cell) -> list[str]:
        """Flags of one run, without its folder."""
        return [*self.flags[cell.task, cell.arm], "--seed", str(cell.seed)]

    def config(self, cell: Cell) -> Config:
        """What these flags mean."""
        return dataclasses.replace(self.configs[cell.task, cell.arm], seed=cell.seed)

    def source(self, cell: Cell) -> Cell | None:
        """The run that this one is a fork of; None where it is none."""
        fork = self.forks.get(cell.arm)
        return None if fork is None else cell._replace(arm=fork.of)


def load(name: str, *, quick: bool = False) -> Suite:
    """A suite by its name, or by the path of its file.

    Args:
        quick: one seed and few steps, to try every task and arm.

    Raises:
        UserError: there is no such suite, or a key of the file is not allowed.
    """
    known = sorted(path.stem for path in FILES.glob("*.toml"))
    path = FILES / f"{name}.toml"
    if name.endswith(".toml"):
        path = Path(name)
    elif name not in known:
        raise UserError(
            f"NAME {name}: no such suite; allowed: {', '.join(known)}, or the path of "
            f"a file that ends in .toml{did_you_mean(name, known)}"
        )
    try:
        text = path.read_text(encoding="utf-8")
        record = tomllib.loads(text)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # not TOML, or not UTF-8
        raise UserError(f"{path}: not valid TOML ({error})") from None
    try:
        return read(record, path.stem, quick=quick)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def read(record: Mapping[str, Any], name: str, *, quick: bool = False) -> Suite:
    """The suite that a file's content describes.

    Raises:
        UserError: naming the key that is not allowed.
    """
    _check_keys(record)
    tasks = _items(record, "tasks", str)
    seeds = _items(record, "seeds", int) if "seeds" in record else [0]
    arms = _table(record, "arms")
    overrides = _table(record, "overrides") if "overrides" in record else {}
    for key, names in (("tasks", tasks), ("arms", arms)):
        for each in names:
            if not re.fullmatch(r"[\w.:-]+", each):
                raise UserError(
                    f"{key}: {each!r} is no name of a folder; allowed: letters, "
                    "digits, and _ . : -"
                )
    for task in overrides:
        if task not in tasks:
            raise UserError(
                f"overrides.{task}: no task of this suite; allowed: "
                f"{', '.join(tasks)}{did_you_mean(task, tasks)}"
            )
    baseline = record.get("baseline")
    if baseline is not None and baseline not in arms:
        raise UserError(
            f"baseline: {baseline!r} is no arm; allowed: {', '.join(arms)}"
            f"{did_you_mean(baseline, arms)}"
        )
    episodes = record.get("final_episodes", 20)
    if episodes < 0:
        raise UserError(f"final_episodes: {episodes}; allowed: an integer >= 0")
    forks = _forks(record.get("forks", {}), arms)
    if quick:
        forks = {arm: fork._replace(at=1) for arm, fork in forks.items()}
    flags, configs = {}, {}
    common = _words("common", record.get("common", ""))
    for task in tasks:
        own = _words(f"overrides.{task}", overrides.get(task, ""))
        for arm, text in arms.items():
            usual = ["--env", task, *common, *own]
            last = _QUICK.split() if quick else []
            words = _words(f"arms.{arm}", text)
            if arm in forks:  # the other flags are those of the forked run
                words += last[2:]  # without the preset
                usual += _words(f"arms.{forks[arm].of}", arms[forks[arm].of])
                config = _config(task, arm, [*usual, *words, *last])
                if "--steps" in words:  # the stored replay buffer is not resized
                    size = _config(task, arm, [*usual, *last]).replay_capacity
                    config = dataclasses.replace(config, replay_size=size)
                flags[task, arm] = ("--env", task, *words)
            else:
                words = [*usual, *words, *last]
                config = _config(task, arm, words)
                here = {name: fork for name, fork in forks.items() if fork.of == arm}
                flags[task, arm] = (*words, *_kept(config, here))
            configs[task, arm] = config
    return Suite(
        name=name,
        title=record.get("title", name),
        tasks=tuple(tasks),
        arms=tuple(arms),
        seeds=tuple(seeds[:1] if quick else seeds),
        baseline=baseline,
        final_episodes=min(episodes, 1) if quick else episodes,
        sensitivity=record.get("sensitivity", False),
        flags=flags,
        configs=configs,
        forks=forks,
    )


def _forks(table: Mapping[str, Any], arms: Mapping[str, str]) -> dict[str, Fork]:
    found: dict[str, Fork] = {}
    for arm, entry in table.items():
        if arm not in arms:
            raise UserError(
                f"forks.{arm}: no arm of this suite; allowed: {', '.join(arms)}"
                f"{did_you_mean(arm, arms)}"
            )
        if not isinstance(entry, dict) or entry.keys() != {"of", "at"}:
            raise UserError(
                f'forks.{arm}: {entry!r}; allowed: {{of = "ARM", at = STEP}}'
            )
        of, at = entry["of"], entry["at"]
        others = [name for name in arms if name != arm and name not in table]
        if of not in others:
            raise UserError(
                f"forks.{arm}.of: {of!r}; allowed, arms that are no forks: "
                f"{', '.join(others)}"
            )
        if isinstance(at, bool) or not isinstance(at, int | float) or at < 1 or at % 1:
            raise UserError(f"forks.{arm}.at: {at!r}; allowed: an integer >= 1")
        found[arm] = Fork(of, int(at))
    return found


def _kept(config: Config, forks: Mapping[str, Fork]) -> list[str]:
    """The flag that keeps the checkpoints at which a run is forked.

    Raises:
        UserError: the run ends before one of them.
    """
    for name, fork in forks.items():
        if fork.at > config.steps:
            raise UserError(
                f"forks.{name}.at: {fork.at}; allowed: at most the {config.steps} "
                f"steps of {fork.of}"
            )
    steps = sorted({fork.at for fork in forks.values()})
    return ["--keep-at", ",".join(map(str, steps))] if steps else []


def _check_keys(record: Mapping[str, Any]) -> None:
    for key, value in record.items():
        if key not in _KEYS:
            raise UserError(
                f"{key}: unknown key; allowed: {', '.join(_KEYS)}"
                f"{did_you_mean(key, _KEYS)}"
            )
        kind = _KEYS[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            raise UserError(f"{key}: {value!r}; allowed: {_WORDS[kind]}")
    for key in _REQUIRED:
        if not record.get(key):
            raise UserError(f"{key}: missing or empty; wanted: {_WORDS[_KEYS[key]]}")


def _items(record: Mapping[str, Any], key: str, kind: type) -> list[Any]:
    """A list of different texts, or of different integers from 0."""
    found: list[Any] = []
    for item in record[key]:
        fits = isinstance(item, kind) and not isinstance(item, bool)
        if not fits or (kind is int and item < 0):
            allowed = "texts" if kind is str else "integers >= 0"
            raise UserError(f"{key}: {item!r}; allowed: a list of {allowed}")
        if item in found:
            raise UserError(f"{key}: {item!r} is there twice; allowed: each once")
        found.append(item)
    if not found:
        raise UserError(f"{key}: empty; wanted: at least one")
    return found


def _table(record: Mapping[str, Any], key: str) -> dict[str, str]:
    for name, value in record[key].items():
        if not isinstance(value, str):
            raise UserError(f"{key}.{name}: {value!r}; allowed: a text of flags")
    return dict(record[key])


def _words(key: str, text: str) -> list[str]:
    """The words of a text of flags, each flag known and none that the suite sets."""
    try:
        words = shlex.split(text)
        given = read_words(words)
    except (ValueError, UserError) as error:
        raise UserError(f"{key}: {error}") from None
    if given.help:
        raise UserError(f"{key}: --help is no setting of a run")
    for flag in given.values:
        if flag in _OURS:
            raise UserError(f"{key}: {flag} is not for flags; set by {_OURS[flag]}")
    return words


def _config(task: str, arm: str, words: Sequence[str]) -> Config:
    """What the flags of one task and arm mean; the preset must be named."""
    if read_words(words).values.get("--preset", "auto") == "auto":
        raise UserError(
            "common: names no --preset, and the usual one depends on the device; "
            "allowed: --preset laptop, or another"
        )
    try:
        return parse(words, "cpu")  # the device matters to `--preset auto` alone
    except UserError as error:
        raise UserError(f"task {task}, arm {arm}: {error}") from None
