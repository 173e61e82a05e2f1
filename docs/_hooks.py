"""MkDocs hooks: the site also shows files that live outside of docs/.

Pages link to committed results, the README and CONTRIBUTING by relative paths, which
work where the repository is browsed. In the site, results and CONTRIBUTING are files of
their own, and the README is its start page.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
RESULTS = "benchmarks/results"


def on_files(files: Files, config: Any) -> Files:
    """Add the committed results and CONTRIBUTING.md."""
    for path in sorted((ROOT / RESULTS).rglob("*")):
        if path.is_file():
            name = path.relative_to(ROOT).as_posix()
            if path.name == "README.md":  # MkDocs would make it an index page
                name = name.replace("README.md", "about.md")
            files.append(File.generated(config, name, abs_src_path=str(path)))
    contributing = str(ROOT / "CONTRIBUTING.md")
    files.append(File.generated(config, "contributing.md", abs_src_path=contributing))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links out of docs/ at the files that stand for them."""
    markdown = markdown.replace(f"](../{RESULTS}/", f"]({RESULTS}/")
    markdown = re.sub(rf"\]\(({RESULTS}/\S*?)README\.md\)", r"](\1about.md)", markdown)
    markdown = markdown.replace("](../CONTRIBUTING.md)", "](contributing.md)")
    markdown = markdown.replace("](../README.md)", "](index.md)")
    if page.file.src_uri.startswith(RESULTS):  # three folders below docs/
        markdown = markdown.replace("](../../../docs/", "](../../../")
    if page.file.src_uri == "contributing.md":
        markdown = markdown.replace("](docs/", "](")
    return markdown
