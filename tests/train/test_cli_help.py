"""`--help` shows every flag, and the values that a command would take."""

import ast
import dataclasses
import importlib
import importlib.metadata
import inspect
import itertools
import json
import re
import subprocess
from typing import Any

import pytest

import envs
from train.config import Config
from train.config.cli import COMMAND, parse
from train.config.fields import flags
from train.config.grouped import GROUPS
from train.config.presets import PRESETS
from train.main import main

# The fields of Config that are dataclasses, and how the help introduces them.
PARTS = {
    "penalty": "Jacobian penalty on the latent dynamics.",
    "latent": "Latent variables, and their exogenous error.",
    "optimizer": "Optimizer of all networks.",
    "loss": "Losses.",
    "origin": "Checkpoint or agent to start from.",
    "scale": "Devices and processes.",
}


def parsed(words: str, platform: str = "cpu") -> Config:
    return parse(words.split(), platform)


def test_help_documents_every_flag(capsys):
    with pytest.raises(SystemExit) as caught:
        parse(["--help"], "cpu")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "python -m train.main --env walker --penalty pallas" in text
    assert "python -m train.main --preset gpld --penalty none" in text
    assert all(task in text for task in envs.TASKS)
    for flag in flags(Config):
        assert flag.name + " " in text or flag.name + "," in text, flag.name


@pytest.mark.parametrize(
    ("words", "platform", "ratio", "said"),
    [
        ("--help", "cpu", "32.0", "preset laptop (auto: the device is a CPU)"),
        ("--help", "gpu", "512.0", "preset gpld (auto: the device is a GPU)"),
        ("--preset dreamerv3 --help", "cpu", "1024.0", "dreamerv3 (asked for by"),
        ("--help --preset dreamerv3", "cpu", "1024.0", "dreamerv3 (asked for by"),
    ],
)
def test_help_shows_the_values_that_will_be_taken(capsys, words, platform, ratio, said):
    with pytest.raises(SystemExit):
        parsed(words, platform)
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    about = text.partition("--train-ratio FLOAT")[2]
    assert f"(default: {ratio})" in about[:120]
    assert said in text


@pytest.mark.parametrize(
    ("words", "start", "least"),
    [
        ("--help", "0.5", "0.001"),
        ("--penalty-target core --help", "0.01", "0.01"),
        ("--preset gpld --help --penalty-target core", "0.01", "0.01"),
        ("--preset jacreg --help", "0.01", "0.01"),
        ("--preset jacreg --penalty-target prior --help", "0.5", "0.001"),
    ],
)
def test_help_shows_the_coefficients_of_the_target(capsys, words, start, least):
    with pytest.raises(SystemExit):
        parsed(words)
    text = capsys.readouterr().out
    for flag, value in (("--lambda0 ", start), ("--lambda-min ", least)):
        about = text.partition(flag + "FLOAT")[2]
        assert re.findall(r"default:[\s│]*([^)]*)\)", about)[0] == value, flag


def test_every_field_is_documented():
    """Its docstring is the help text of its flag."""
    names = ("schema", "penalty", "origin", "latent")
    modules = [importlib.import_module(f"train.config.{name}") for name in names]
    trees = [ast.parse(inspect.getsource(module)) for module in modules]
    fields = 0
    for owner in itertools.chain(*map(ast.walk, trees)):
        if not isinstance(owner, ast.ClassDef):
            continue
        for field, following in itertools.pairwise(owner.body):
            if isinstance(field, ast.AnnAssign):
                fields += 1
                assert isinstance(following, ast.Expr), ast.unparse(field)
    assert fields == len(flags(Config)) + 6  # and the six nested dataclasses


def ended(words: list[str]) -> Any:
    """The code with which a command that prints something ends."""
    with pytest.raises(SystemExit) as caught:
        main(words)
    return caught.value.code


def test_lists_of_tasks_and_presets(capsys):
    assert ended(["--list-envs"]) == 0
    listed = capsys.readouterr().out.split()
    assert sorted(listed) == sorted(envs.TASKS)
    assert ended(["--list-presets"]) == 0
    lines = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert set(lines) == set(PRESETS)
    for name, words in lines.items():
        assert words.startswith("--")
        assert parsed(f"--preset {name} {words}") == parsed(f"--preset {name}")


def test_the_settings_of_a_command_are_printed(capsys):
    words = "--preset smoke --env walker --rho 0.25"
    assert ended([*words.split(), "--print-config"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == dataclasses.asdict(parse(words.split(), "cpu"))
    assert main(["--rho", "7", "--print-config"]) == 2


def test_every_flag_is_in_one_group_of_the_help():
    own = [x.name for x in dataclasses.fields(Config) if x.name not in PARTS]
    grouped = [name for _, names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(own)


def test_the_help_has_groups_that_say_what_they_are(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"], "cpu")
    text = capsys.readouterr().out
    titles = re.findall(r"^\W*(\w+) options\W*$", text, flags=re.MULTILINE)
    assert titles == [*GROUPS, *PARTS]
    for title, flag in (
        ("environment", "--num-envs"),
        ("training", "--batch-size"),
        ("logging", "--save-every"),
        ("penalty", "--rho"),
        ("scale", "--devices"),
    ):
        panel = text.partition(f"{title} options")[2].partition(" options")[0]
        assert f" {flag} " in panel
        assert (GROUPS[title][0] if title in GROUPS else PARTS[title]) in panel


def test_a_shell_completes_the_flags(capsys, tmp_path):
    assert ended(["--print-completion", "bash"]) == 0
    script = tmp_path / "completion"
    script.write_text(capsys.readouterr().out)
    program = f"""source {script}
COMP_WORDS=(smooth-dreamer --) COMP_CWORD=1 COMP_LINE=. COMP_POINT=1
$(complete -p smooth-dreamer | sed 's/.*-F \\([^ ]*\\).*/\\1/') 2>/dev/null
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True)
    offered = set(done.stdout.splitlines())
    assert {flag.name for flag in flags(Config)} <= offered
    switches = {flag.name for flag in flags(Config) if flag.kind is bool}
    more = {"--no-" + name[2:] for name in switches} | {"--help"}
    assert offered - {flag.name for flag in flags(Config)} <= more


@pytest.mark.parametrize("words", [[], ["tcsh"], ["bash", "--env", "walker"]])
def test_completion_for_another_shell_is_refused(capsys, words):
    assert main(["--print-completion", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "bash or zsh" in err


def test_the_command_that_is_completed_is_train_main():
    (found,) = importlib.metadata.entry_points(name=COMMAND)
    assert found.load() is main
