"""Commands in the documents: each is one that its program accepts.

Every command line is read by the program's own parser; nothing is run.
"""

import argparse
import importlib
import pathlib
import re
import shlex
import sys
import types
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from benchmarks.cli import Parser
from benchmarks.suite import declare
from train.config import Config, cli
from train.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "agents/README.md", "package/README.md")
PROGRAM = r"(?:train|benchmarks)(?:\.[a-z]\w*)+"
LINE = re.compile(rf"\bpython -m ({PROGRAM})(.*)")
INLINE = re.compile(rf"(?:.* )?(?:python -m )?({PROGRAM})((?: .*)?)")
STAND_INS = {
    "λ": "0.1",
    "STEP": "1",
    "STEPS": "1",
    "N": "1",
    "--stage NAME": "--stage env",
    '"${tasks[$((SLURM_ARRAY_TASK_ID % 2))]}"': "walker-run",
    "$((SLURM_ARRAY_TASK_ID / 2))": "0",
}
"""What stands in a document for one of several values, and one of them."""
REQUIRED = {
    "benchmarks.suite": ("--folder",),
    "benchmarks.ablations": ("--folder",),
    "train.export": ("--run", "--to"),
}
"""Flags that a sentence about the program may leave out."""


class Command(NamedTuple):
    """A command of a document: its page, its program, and what follows."""

    page: str
    program: str
    rest: str

    def words(self) -> list[str]:
        """The words that the program gets, without what only a reader needs."""
        text = re.split(r"\s(?:#|;|&&|\||>)(?:\s|$)", self.rest + " ")[0]
        for word, value in STAND_INS.items():
            text = re.sub(rf"(?<!\S){re.escape(word)}(?!\S)", value, text)
        text = re.sub(r"\{(\w+)[^}]*\}", r"\1", text)  # {one,of,these}
        text = re.sub(r"[\[\]]|(?<!\S)(?:\.\.\.|…)(?!\S)", "", text)
        return shlex.split(text)


def pages() -> Iterator[tuple[str, str]]:
    paths = [ROOT / name for name in PAGES] + sorted((ROOT / "docs").rglob("*.md"))
    for path in paths:
        text = path.read_text("utf-8")
        yield path.relative_to(ROOT).as_posix(), text.replace("\\\n", " ")


def split(text: str) -> tuple[list[str], list[str]]:
    """The lines of code of a page, and the pieces of code within its sentences."""
    fence = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
    blocks = "\n".join(fence.findall(text)).splitlines()
    prose = fence.sub("", text)
    blocks += re.findall(r"^    .*", prose, re.MULTILINE)
    pieces = re.findall(r"`([^`]+)`", re.sub(r"^    .*", "", prose, flags=re.MULTILINE))
    return list(map(str, blocks)), [" ".join(piece.split()) for piece in pieces]


def find_commands() -> list[Command]:
    found = []
    for page, text in pages():
        lines, pieces = split(text)
        hits = [LINE.search(line) for line in lines]
        hits += [INLINE.fullmatch(piece) for piece in pieces]
        found += [Command(page, hit[1], hit[2].strip()) for hit in hits if hit]
    # The name of a program alone is no command line: what it requires is missing.
    return [each for each in dict.fromkeys(found) if each.words()]


COMMANDS = find_commands()


class Accepted(BaseException):
    """Raised in place of what a program would do with its flags; none catches it."""


@pytest.fixture(autouse=True)
def only_parsed(monkeypatch):
    parse = argparse.ArgumentParser.parse_args

    def accept(self, argv=None, namespace=None):
        raise Accepted(parse(self, argv, namespace))

    monkeypatch.setattr(Parser, "parse_args", accept)
    # The page on environments says what is in this file of the reader's.
    robot = types.ModuleType("my_robot")
    vars(robot)["make"] = lambda **_: None
    monkeypatch.setitem(sys.modules, "my_robot", robot)
    monkeypatch.setitem(sys.modules, "my_simulator", robot)


def check(program: str, words: list[str]) -> None:
    """Return if the program accepts the words, else raise what it says."""
    for flag in REQUIRED.get(program, ()):
        words = words if flag in words else [*words, flag, "FOLDER"]
    if program == "train.main":
        cli.read_command(words, lambda _: "cpu", lambda _: Config())
        return
    is_package = (ROOT / program.replace(".", "/")).is_dir()
    module = importlib.import_module(program + (".__main__" if is_package else ""))
    if program.startswith("train."):
        module.read_options(words)
        return
    with pytest.raises(Accepted) as accepted:
        module.main(words)
    if program in ("benchmarks.suite", "benchmarks.ablations"):
        declare.load(accepted.value.args[0].name)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: f"{c.page}: {c.program}")
def test_a_command_is_accepted(command, capsys):
    try:
        check(command.program, command.words())
    except UserError as error:
        pytest.fail(f"{command}: {error}")
    except SystemExit as leaving:  # 0 after --help
        assert leaving.code == 0, (command, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("python -m train.main --env {walker,hopper} [--seed 1]  # or 2", 4),
        ("$ uv run python -m train.main --env walker | tee log", 2),
        ("`train.evaluate --run RUN ...`", 2),
    ],
)
def test_what_only_a_reader_needs_is_left_out(line, words):
    found = [hit for hit in (LINE.search(line), INLINE.fullmatch(line[1:-1])) if hit]
    assert len(Command("", *found[0].groups()).words()) == words


@pytest.mark.parametrize(
    "command",
    [
        Command("", "train.main", "--no-such-flag 1"),
        Command("", "train.evaluate", "--run RUN --no-such-flag 1"),
        Command("", "train.watch", "runs/x --no-such-flag 1"),
        Command("", "benchmarks.trust", "--run RUN --no-such-flag"),
        Command("", "benchmarks.suite", "no-such-suite --folder runs"),
        Command("", "benchmarks.ablations", "no-such-ablation --folder runs"),
    ],
    ids=lambda c: c.program,
)
def test_a_command_that_does_not_exist_is_found(command, capsys):
    with pytest.raises((UserError, SystemExit, pytest.fail.Exception)) as refused:
        check(command.program, command.words())
    assert getattr(refused.value, "code", 2) == 2
    assert "no-such" in str(refused.value) + capsys.readouterr().err


def test_commands_are_found_on_every_page_that_has_some():
    assert len(COMMANDS) > 100
    for page, text in pages():
        if "python -m train.main --" in text:
            assert any(command.page == page for command in COMMANDS), page
