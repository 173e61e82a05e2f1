"""The promises the repository makes about itself."""

import ast
import re
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from benchmarks import BENCHMARKS
from train.errors import UserError
from train.preflight.shadowing import PACKAGES, check_origin

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (*PACKAGES, "train", "tests")


def tracked_files() -> list[Path]:
    """What git would commit; a source archive without git is skipped, visibly."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: there are no tracked files to look at")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert ROOT / "pyproject.toml" in paths
    return [path for path in paths if path.is_file()]


def text_of(path: Path) -> str:
    """The text of a file, empty for pictures and other binary files."""
    content = path.read_bytes()
    return "" if b"\0" in content else content.decode("utf-8")


@pytest.mark.parametrize(
    "command",
    ["uv run python -m train.main --env walker --penalty pallas", "uv run pytest"],
)
def test_readme_shows_both_commands(command):
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert any(
        re.fullmatch(rf"{re.escape(command)}\s*(#.*)?", s.strip()) for s in lines
    )


def test_ci_runs_the_test_command_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"^stage \S+ uv run pytest$", script, flags=re.MULTILINE)


def test_ci_builds_the_site_strictly():
    """With --quiet, mkdocs does not count warnings: --strict would never fail."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"^stage docs .* mkdocs build --strict$", script, re.MULTILINE)


# Written in pieces, so that this file does not find itself.
FORBIDDEN = {
    "a home directory": re.compile(
        "/(?:" + "home|Users" + r")/\w|(?<![\w.])/" + "root/"
    ),
    "a working directory": re.compile(r"(?<![\w.}])/" + "(?:work|opt|workspace)/"),
    "a package host": re.compile(
        "pypi" + r"\.org|" + "pythonhosted" + r"\.org|registry\." + "npmjs"
    ),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names(what):
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in tracked_files()
        for number, line in enumerate(text_of(path).splitlines(), start=1)
        if FORBIDDEN[what].search(line)
    ]
    assert not found, f"{what} is named:\n" + "\n".join(found)


def test_forbidden_patterns_find_what_they_should():
    samples = {
        "a home directory": ["/ho" + "me/me", "cd /ro" + "ot/x"],
        "a working directory": ["/wo" + "rk/main", "file:///op" + "t/wheels"],
        "a package host": ["https://py" + "pi.org/simple"],
    }
    for what, texts in samples.items():
        for text in texts:
            assert FORBIDDEN[what].search(text), text
    assert not FORBIDDEN["a home directory"].search("tree/root/node")


def test_lock_file_is_ignored_and_versions_are_kept():
    names = {path.name for path in tracked_files()}
    assert "uv.lock" not in names
    assert "constraints.txt" in names


def test_constraints_are_names_and_versions():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines == sorted(lines)
    wrong = [s for s in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", s)]
    assert not wrong


def test_files_are_short():
    lengths = {
        str(path.relative_to(ROOT)): len(text_of(path).splitlines())
        for path in tracked_files()
        if path.suffix == ".py"
    }
    assert len(lengths) > 5
    assert not {name: lines for name, lines in lengths.items() if lines >= 400}


def test_functions_of_the_update_take_at_most_six_arguments():
    """Except constructors, whose arguments are sizes."""
    counts: dict[str, int] = {}
    for folder in ("core", "train"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.is_relative_to(ROOT / "core" / "theory"):
                continue
            for node in ast.walk(ast.parse(text_of(path))):
                if isinstance(node, ast.FunctionDef) and node.name != "__init__":
                    given = node.args
                    names = {a.arg for a in (*given.args, *given.kwonlyargs)}
                    counts[f"{path.name}: {node.name}"] = len(names - {"self", "cls"})
    assert len(counts) > 500
    assert not {name: count for name, count in counts.items() if count > 6}


def test_kernels_import_only_jax_numpy_and_jaxtyping():
    allowed = {"jax", "numpy", "jaxtyping", "kernels"} | sys.stdlib_module_names
    foreign = [
        f"{path.name}: {name}"
        for path in sorted((ROOT / "kernels").rglob("*.py"))
        for name in imported(path)
        if name.partition(".")[0] not in allowed
    ]
    assert not foreign


def imported(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.append(node.module)
    return names


def test_every_benchmark_is_listed():
    root = ROOT / "benchmarks"
    found = {
        path.relative_to(root).with_suffix("")
        for path in root.rglob("*.py")
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
        and path.parent != root
        and path.parent.name != "peers"  # run by other environments, with other code
    }
    programs = {
        ".".join((path.parent if path.name == "__main__" else path).parts)
        for path in found
    }
    # It only names the command to give instead: `benchmarks.gpu --stage compile`.
    assert programs - {"gpu.compile.command"} == set(BENCHMARKS)


def test_our_own_packages_pass():
    check_origin()


@pytest.mark.parametrize("form", ["package", "module", "namespace"])
def test_foreign_package_is_named(tmp_path, monkeypatch, form):
    if form == "module":
        (tmp_path / "kernels.py").write_text("")
    else:
        (tmp_path / "kernels").mkdir()
        if form == "package":
            (tmp_path / "kernels" / "__init__.py").write_text("")
    # A namespace package gives way to any regular one, so ours must not be seen at all.
    path = [str(tmp_path)] if form == "namespace" else [str(tmp_path), *sys.path]
    monkeypatch.setattr(sys, "path", path)
    monkeypatch.setattr(sys, "meta_path", [PathFinder])
    monkeypatch.delitem(sys.modules, "kernels")
    with pytest.raises(UserError, match="package 'kernels' would come from") as raised:
        check_origin(["kernels"])
    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_foreign_package_that_is_loaded_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "envs", ast)
    with pytest.raises(UserError, match="package 'envs' would come from"):
        check_origin(["envs"])


def test_absent_package_is_named():
    with pytest.raises(UserError, match="package 'no_such_package' is not there"):
        check_origin(["no_such_package"])
