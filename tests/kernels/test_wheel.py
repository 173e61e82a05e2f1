"""package/: the penalty and the model as a wheel with one top-level name."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import types
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "package"
EXAMPLES = re.findall(
    r"```python\n(.*?)```", (PACKAGE / "README.md").read_text("utf-8"), flags=re.DOTALL
)
MODULES = [
    "smooth_dreamer." + ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in ("core", "kernels")
    for path in sorted((ROOT / package).rglob("*.py"))
    if path.stem != "__init__"
]


def uv(*words: str) -> None:
    """Runs uv, whose message is shown where it fails."""
    found = shutil.which("uv")
    assert found, "this test builds a wheel with uv, which is not on the PATH"
    environment = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}
    done = subprocess.run(
        [found, *words], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert not done.returncode, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    uv("build", "--quiet", str(PACKAGE), "--out-dir", str(folder))
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """Runs a program in an environment that has the wheel and what it needs, only."""
    home = tmp_path_factory.mktemp("empty")
    uv("venv", "--quiet", "--python", sys.executable, str(home / "venv"))
    own = home / "venv" / "bin" / "python"
    uv("pip", "install", "--quiet", "--python", str(own), str(wheel))

    def run(program: str, *packages: str) -> str:
        if packages:
            uv("pip", "install", "--quiet", "--python", str(own), *packages)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        done = subprocess.run(
            [own, "-c", program],
            capture_output=True,
            text=True,
            env=environment | {"JAX_PLATFORMS": "cpu"},
            cwd=home,  # not the checkout, whose folders could be imported
        )
        assert not done.returncode, done.stderr
        return done.stdout

    return run


def test_version_and_dependencies_are_those_of_the_project():
    whole, part = (
        tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
        for folder in (ROOT, PACKAGE)
    )
    assert part["version"] == whole["version"]
    assert set(part["dependencies"]) < set(whole["dependencies"])
    assert not [x for x in part["dependencies"] if "mujoco" in x]


@pytest.mark.slow
def test_there_is_one_top_level_name(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {x for x in tops if not x.endswith(".dist-info")} == {"smooth_dreamer"}
    assert "smooth_dreamer/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    modules = {name.removesuffix(".py").replace("/", ".") for name in names}
    assert set(MODULES) <= modules and len(MODULES) > 40


@pytest.mark.slow
def test_every_module_imports_without_the_simulator(python):
    out = python(
        "import importlib, importlib.metadata as found, sys\n"
        f"for name in {MODULES}: importlib.import_module(name)\n"
        "import smooth_dreamer\n"
        "for name in ('mujoco', 'core', 'kernels', 'envs', 'train', 'dm_control'):\n"
        "    assert name not in sys.modules, name\n"
        "    assert importlib.util.find_spec(name) is None, name\n"
        "print(*sorted(x.name for x in found.distributions()))\n"
    )
    assert "smooth-dreamer-core" in out.split()
    assert not [x for x in out.lower().split() if "mujoco" in x or "optax" in x]


@pytest.mark.slow
def test_the_example_of_the_model_gives_a_penalty(python):
    (program,) = [text for text in EXAMPLES if " smooth_dreamer.core" in text]
    assert 0 < float(python(program + "\nprint(float(value))")) < 1e3


JACOBIAN = """
head = lambda u: jax.nn.softmax(net(u).reshape(5, 4))
jacobian = jax.vmap(jax.jacobian(head))(states)
print(float(value), float((jacobian**2).sum((1, 2, 3)).mean() / 5))
print(min(float(abs(x).max()) for x in jax.tree.leaves(gradient) if hasattr(x, "max")))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "packages", "tolerance"),
    [("equinox", (), 1e-5), ("flax", ("flax",), 0.2)],  # exact, and one random probe
)
def test_the_examples_have_the_norm_by_definition(python, example, packages, tolerance):
    (program,) = [text for text in EXAMPLES if f" {example}" in text]
    value, expected, least = map(float, python(program + JACOBIAN, *packages).split())
    assert value == pytest.approx(expected, rel=tolerance)
    assert least > 0  # every weight and bias has a gradient


@pytest.fixture
def renamed(monkeypatch):
    """The hook's function; hatchling itself is only where a wheel is built."""
    interface = types.ModuleType("interface")
    vars(interface)["BuildHookInterface"] = object
    name = "hatchling.builders.hooks.plugin.interface"
    monkeypatch.setitem(sys.modules, name, interface)
    return runpy.run_path(str(PACKAGE / "hatch_build.py"))["renamed"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("from core import rssm\n", "from smooth_dreamer.core import rssm\n"),
        (
            "def f():\n    from kernels.api import (\n        g)\n",
            "def f():\n    from smooth_dreamer.kernels.api import (\n        g)\n",
        ),
        (
            "x = 1  # see `core.rssm.RSSM`\n",
            "x = 1  # see `smooth_dreamer.core.rssm.RSSM`\n",
        ),
        ("from jax.core import Tracer\n", "from jax.core import Tracer\n"),
        ("import corelib, jax.core\n", "import corelib, jax.core\n"),
        ('x = "--penalty-target core"\n', 'x = "--penalty-target core"\n'),
        ('"""In few kernels. Or core."""\n', '"""In few kernels. Or core."""\n'),
    ],
)
def test_imports_and_mentions_are_renamed(renamed, before, after):
    assert renamed(before, "file.py") == after


@pytest.mark.parametrize(
    "text", ["import core.rssm\n", "import kernels as k\n", "core = f()\ncore.x\n"]
)
def test_what_cannot_be_renamed_is_refused(renamed, text):
    with pytest.raises(ValueError, match=r"file\.py:1"):
        renamed(text, "file.py")
