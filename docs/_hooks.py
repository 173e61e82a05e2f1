"""MkDocs hooks: the site also shows files that live outside of docs/.

Pages link to committed results, the README and further pages by relative paths, which
work where the repository is browsed. In the site, results and further pages are files
of their own, and the README is its start page. No page loads anything from another
host: formulas are MathML, which browsers draw by themselves.
"""

import html
import logging
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
RESULTS = "benchmarks/results"
PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "agents/README.md": "agents.md",
    "package/README.md": "library.md",
}
"""Pages outside of docs/, and what they are in the site."""
MATHJAX = re.compile(r"<script data-mkdocs-jupyter-mathjax=.*?</script>", re.DOTALL)
"""Loads MathJax from another host; the notebooks have no formulas that need it."""
FOREIGN = re.compile(
    r"<(?:script|link|img)\b[^>]*\b(?:src|href)=\"https?://[^\"]*\"[^>]*>"
)
FORMULA = re.compile(
    r"<(span|div) class=\"arithmatex\">\\[(\[](.*?)\\[)\]]</\1>", re.DOTALL
)
"""What pymdownx.arithmatex makes of $…$ and $$…$$."""


def on_files(files: Files, config: Any) -> Files:
    """Add the committed results and the pages outside of docs/."""
    for path in sorted((ROOT / RESULTS).rglob("*")):
        if path.is_file():
            name = path.relative_to(ROOT).as_posix()
            if path.name == "README.md":  # MkDocs would make it an index page
                name = name.replace("README.md", "about.md")
            files.append(File.generated(config, name, abs_src_path=str(path)))
    for path, name in PAGES.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links out of docs/ at the files that stand for them."""
    markdown = markdown.replace(f"](../{RESULTS}/", f"]({RESULTS}/")
    markdown = re.sub(rf"\]\(({RESULTS}/\S*?)README\.md\)", r"](\1about.md)", markdown)
    for path, name in PAGES.items():
        markdown = markdown.replace(f"](../{path}", f"]({name}")
    markdown = markdown.replace("](../README.md)", "](index.md)")
    if page.file.src_uri.startswith(RESULTS):  # three folders below docs/
        markdown = markdown.replace("](../../../docs/", "](../../../")
    if page.file.src_uri in PAGES.values():
        markdown = re.sub(r"\]\((\.\./)?docs/", "](", markdown)
    return markdown


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """Turn formulas into MathML, and warn of those that cannot be."""

    def mathml(found: re.Match[str]) -> str:
        tex = html.unescape(found[2]).strip()
        # A number of an equation, which MathML lacks; fonts take braces.
        tex = re.sub(r"\\tag\{(\w+)\}", r"\\qquad(\1)", tex)
        tex = re.sub(r"\\mathbb (\w)", r"\\mathbb{\1}", tex)
        display = "block" if found[1] == "div" else "inline"
        try:
            drawn = convert(tex, display=display)
        except Exception as error:  # its errors have no common class
            drawn = f"{type(error).__name__}\\"
        if "\\" in drawn:  # a command that it does not know stays as it was
            log = logging.getLogger("mkdocs.hooks")
            log.warning(f"{page.file.src_uri}: no MathML of {tex!r} ({drawn[:300]})")
        # A formula wider than the page scrolls by itself.
        style = ' style="overflow-x: auto"' if found[1] == "div" else ""
        return f"<{found[1]}{style}>{drawn}</{found[1]}>"

    return FORMULA.sub(mathml, content)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Leave out MathJax, and warn of what would be loaded from another host."""
    output = MATHJAX.sub("", output)
    found = [x for x in FOREIGN.findall(output) if 'rel="canonical"' not in x]
    if found:
        log = logging.getLogger("mkdocs.hooks")
        log.warning(f"{page.file.src_uri}: loads from another host: {found[0]}")
    return output
