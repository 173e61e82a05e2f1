"""Puts `core` and `kernels` into the wheel as `smooth_dreamer.core` and `.kernels`.

Their own names are right in a checkout, and too general in other environments.
"""

import ast
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NAMESPACE = "smooth_dreamer"
PACKAGES = ("core", "kernels")
# In texts: `core.rssm`, kernels.CategoricalHead; not jax.core.x, train/core.x.
_MENTION = re.compile(rf"(?<![\w./])({'|'.join(PACKAGES)})\.(?=[A-Za-z])")


class Namespaced(BuildHookInterface):
    """Writes the renamed packages to a folder that the wheel takes them from."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before the wheel is made."""
        self._folder = Path(tempfile.mkdtemp())
        # Inside the sdist the sources lie here, in a checkout beside this folder.
        here = Path(self.root)
        source = here if (here / PACKAGES[0]).is_dir() else here.parent
        target = self._folder / NAMESPACE
        for package in PACKAGES:
            copy(source / package, target / package)
        about = "A row-wise Jacobian penalty (`kernels`) and a world model (`core`)."
        (target / "__init__.py").write_text(f'"""{about}"""\n', "utf-8")
        (target / "py.typed").touch()
        build_data["force_include"][str(target)] = NAMESPACE

    def finalize(self, *_: Any) -> None:
        """Called after the wheel was made."""
        shutil.rmtree(self._folder)


def copy(source: Path, target: Path) -> None:
    """Copy a package, renamed."""
    files = sorted(source.rglob("*.py"))
    if not files:
        raise FileNotFoundError(f"{source}: no Python files; build from a checkout")
    for file in files:
        to = target / file.relative_to(source)
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(renamed(file.read_text("utf-8"), str(file)), "utf-8")


def renamed(text: str, name: str) -> str:
    """The source with its imports, and what it says of modules, under the namespace.

    Raises:
        ValueError: the code uses a bare name `core` or `kernels`.
    """
    lines = text.splitlines(keepends=True)
    for node in ast.walk(ast.parse(text, name)):
        if isinstance(node, ast.Name) and node.id in PACKAGES:
            raise ValueError(f"{name}:{node.lineno}: a variable is called {node.id}")
        if isinstance(node, ast.Import):
            modules = [each.name for each in node.names]
            if any(x.partition(".")[0] in PACKAGES for x in modules):
                raise ValueError(
                    f"{name}:{node.lineno}: import {', '.join(modules)}; in core and "
                    "kernels write `from module import name`, which can be renamed"
                )
        elif isinstance(node, ast.ImportFrom) and not node.level:
            if str(node.module).partition(".")[0] not in PACKAGES:
                continue
            before, _, after = lines[node.lineno - 1].partition("from ")
            lines[node.lineno - 1] = f"{before}from {NAMESPACE}.{after}"
    # What is left are texts and comments: code has no name `core` or `kernels`.
    return _MENTION.sub(rf"{NAMESPACE}.\1.", "".join(lines))
