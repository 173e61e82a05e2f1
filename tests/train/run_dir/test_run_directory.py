"""A run directory is data: flipped bytes, odd names, links, and nothing that runs."""

import ast
import io
import json
import os
import pathlib
import pickle
import random
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console

from train.checkpoint import manifest
from train.checkpoint.checkpointer import Checkpointer
from train.errors import UserError, one_line, printable
from train.main import main
from train.run_dir.lock import RunLock
from train.run_dir.metrics.progress import Display, Speed
from train.run_dir.record import read as read_config

TREE = {"x": jnp.arange(300_000.0), "key": jax.random.key(3), "n": jnp.int32(7)}
TINY = "--preset smoke --env toy-target"


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Two good checkpoints, to be copied."""
    run_dir = tmp_path_factory.mktemp("two")
    saver = Checkpointer(run_dir)
    assert saver.save(1, TREE, {}) and saver.save(2, TREE, {})
    return run_dir


@pytest.fixture
def run_dir(two_steps: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return shutil.copytree(two_steps, tmp_path / "run")


def step_files(run_dir: pathlib.Path) -> list[pathlib.Path]:
    folder = run_dir / "checkpoints" / f"{2:012d}"
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_flipped_bit_in_each_file_of_a_checkpoint(run_dir):
    """Ten files and more, a random byte of each, three times."""
    rng, files = random.Random(0), step_files(run_dir)
    assert len(files) >= 10
    said: list[str] = []
    reader = Checkpointer(run_dir, warn=said.append)
    for path in files:
        intact = path.read_bytes()
        for _ in range(3):
            content = bytearray(intact)
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            path.write_bytes(content)
            found = reader.restore(TREE)
            assert found is not None and found.step == 1, path
            # Of the manifest itself, a digit in the hash of another file may be hit.
            named = str(path) in said[-1] or path.name == manifest.NAME
            assert named and said[-1].endswith("; trying 1")
            np.testing.assert_array_equal(found.tree["x"], TREE["x"])
        path.write_bytes(intact)
    assert len(said) == 3 * len(files)
    found = reader.restore(TREE)
    assert found is not None and found.step == 2 and len(said) == 3 * len(files)


def forge(folder: pathlib.Path, **files: str) -> None:
    """A manifest that fits what lies in the folder, as somebody else would write it."""
    (folder / manifest.NAME).unlink()
    for name, text in files.items():
        (folder / f"{name}.json").write_text(text)
    manifest.write(folder)


@pytest.mark.parametrize("name", ["../../../secret", "{tmp}/secret", "link", "loop"])
def test_a_manifest_cannot_lead_out_of_its_checkpoint(run_dir, tmp_path, name):
    folder = run_dir / "checkpoints" / f"{2:012d}"
    secret = tmp_path / "secret"
    secret.write_text("mine")
    (folder / "link").symlink_to(secret)
    (folder / "loop").symlink_to(folder / "loop")
    path = folder / manifest.NAME
    record = json.loads(path.read_text())
    size, digest = 4, manifest._sha256(secret)
    record["files"] = {name.format(tmp=tmp_path): [size, digest]}
    record["self"] = manifest._digest(record["files"])
    path.write_text(json.dumps(record))
    with pytest.raises(manifest.Damaged, match="which lies outside"):
        manifest.verify(folder)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '{"files": 3, "self": ""}',
        '{"files": {"x": 1}, "self": ""}',
        '{"files": {"x": ["a", "b"]}, "self": ""}',
        "[" * 100_000,
        "\x00\xff",
    ],
)
def test_a_manifest_of_another_form_is_damaged(run_dir, text):
    folder = run_dir / "checkpoints" / f"{2:012d}"
    (folder / manifest.NAME).write_text(text)
    with pytest.raises(manifest.Damaged, match="is corrupted"):
        manifest.verify(folder)
    found = Checkpointer(run_dir, warn=lambda line: None).restore(TREE)
    assert found is not None and found.step == 1


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"step": 2, "metadata": {}, "leaves": {"x": 3}}', "nonsense"]
)
def test_metadata_of_another_form_is_answered_in_one_line(run_dir, text):
    forge(run_dir / "checkpoints" / f"{2:012d}", metadata=text)
    with pytest.raises(UserError, match=r"metadata\.json: not the metadata of a check"):
        Checkpointer(run_dir).restore(TREE)


def test_only_names_of_steps_are_steps(run_dir):
    folder = run_dir / "checkpoints"
    for name in ("7", "0x10", "٣", "1e9", "-00000000003", f"{5:013d}", "000000000009 "):
        (folder / name).mkdir()
    assert Checkpointer(run_dir).steps() == [1, 2]


OUTWARD = ["lock", "config.json.tmp", "metrics.jsonl.tmp", "checkpoints", "seed_0/x"]
OUTWARD += ["wandb", "wandb/identifier", "wandb/run-1"]


@pytest.mark.parametrize("name", OUTWARD)
def test_a_link_out_of_a_run_directory_is_refused(tmp_path, capsys, name):
    """What it leads to is neither emptied nor written to."""
    target, run_dir = tmp_path / "target", tmp_path / "run"
    target.write_text("mine")
    (run_dir / name).parent.mkdir(parents=True)
    (run_dir / name).symlink_to(target)
    assert main([*TINY.split(), "--logdir", str(run_dir)]) == 2
    err = capsys.readouterr().err
    assert f"{name} in it is a link that leads out" in err and err.count("\n") == 1
    assert target.read_text() == "mine"
    assert {p.name for p in run_dir.iterdir()} == {name.partition("/")[0]}


def test_links_that_stay_inside_and_a_linked_directory_are_fine(tmp_path):
    (tmp_path / "real" / "a").mkdir(parents=True)
    (tmp_path / "real" / "b").symlink_to("a")
    (tmp_path / "run").symlink_to(tmp_path / "real")
    with RunLock(tmp_path / "run"):
        assert (tmp_path / "real" / "lock").exists()


def test_links_to_wandbs_own_logs_are_fine(tmp_path):
    folder = tmp_path / "run" / "seed_0" / "wandb" / "offline-run-20261127-abc" / "logs"
    folder.mkdir(parents=True)
    (folder / "debug-core.log").symlink_to(tmp_path / "log")
    with RunLock(tmp_path / "run"):
        pass


def test_pruning_does_not_follow_links(run_dir, tmp_path):
    target = tmp_path / "target"
    (target / "deep").mkdir(parents=True)
    for name in (f"{0:012d}", f"{9:012d}", ".unfinished-1-1"):
        (run_dir / "checkpoints" / name).symlink_to(target)
    saver = Checkpointer(run_dir, keep=1)
    assert saver.save(3, TREE, {})
    assert (target / "deep").exists()


class Bomb:
    """Whoever unpickles this makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_nothing_in_a_run_directory_is_unpickled(run_dir, tmp_path, monkeypatch):
    """Restoring works where unpickling anything at all raises."""
    fuse = tmp_path / "fuse"
    bomb = pickle.dumps(Bomb(str(fuse)))

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    found = Checkpointer(run_dir).restore(TREE)
    assert found is not None and found.step == 2
    for path in step_files(run_dir):
        if path.suffix == ".json":
            continue
        path.write_bytes(bomb)
        forge(run_dir / "checkpoints" / f"{2:012d}")
        try:
            Checkpointer(run_dir, warn=lambda line: None).restore(TREE)
        except AssertionError:
            raise
        except Exception as error:  # Orbax has many ways to refuse what it cannot read
            assert str(error)
    (run_dir / "config.json").write_bytes(bomb)
    with pytest.raises(UserError):
        read_config(run_dir / "config.json")
    assert not fuse.exists()


def test_no_source_unpickles_evaluates_or_loads_yaml():
    root = pathlib.Path(__file__).parents[3]
    found = []
    for package in ("core", "envs", "kernels", "train", "benchmarks"):
        for path in (root / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    names = {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    names = {(node.module or "").partition(".")[0]}
                elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    names = {node.func.id} & {"eval", "exec"}
                elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                    names = set() if ast.unparse(node.value) == "False" else {"pickle"}
                else:
                    continue
                if names & {"pickle", "dill", "cloudpickle", "yaml", "eval", "exec"}:
                    found.append(f"{path.relative_to(root)}:{node.lineno}")
    assert not found


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[red]x", "[red]x"),
        ("a\x1b[2Jb\x07", "a\\x1b[2Jb\\x07"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\udcff\u202ex", "\\udcff\\u202ex"),
        ("ünï 漢字 💥", "ünï 漢字 💥"),
    ],
)
def test_what_is_shown_commands_no_terminal(text, shown):
    assert printable(text) == shown
    assert "\n" not in one_line(ValueError(text))
    for terminal in (False, True):
        out = io.StringIO()
        console = rich.console.Console(
            file=out, force_terminal=terminal, width=200, highlight=False
        )
        display = Display(100, console)
        display.show(50, Speed(1, 1, 1), {"episode/return": 1.0})
        display.say(f"run {text}")
        display.close()
        assert f"run {shown}" in out.getvalue()


def test_a_run_directory_called_red(tmp_path, monkeypatch, capsys):
    """Its name is shown as it is, by the trainer and in its errors."""
    monkeypatch.chdir(tmp_path)
    name = "[red]x\x1b[31m"
    with RunLock(name):
        assert main([*TINY.split(), "--logdir", name]) == 2
    err = capsys.readouterr().err
    assert "--logdir [red]x\\x1b[31m: in use by" in err and err.count("\n") == 1
    assert main([*TINY.split(), "--logdir", name, "--resume", "must"]) == 2
    assert "[red]x\\x1b[31m holds no checkpoint" in capsys.readouterr().err


def test_the_table_of_faults_names_tests_that_exist():
    root = pathlib.Path(__file__).parents[3]
    text = (root / "docs" / "reliability.md").read_text()
    files = set(re.findall(r"`(test_\w+\.py)", text))
    names = set(re.findall(r"\b(test_\w+)`", text))
    assert len(files) >= 10 and len(names) >= 20
    defined = {
        node.name
        for name in files
        for path in (root / "tests").rglob(name)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert names - defined == set()
