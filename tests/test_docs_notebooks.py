"""docs/notebooks: committed with their results, small, in the site.

That they run is tested by nbmake, in a step of its own (.ci/run).
"""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def test_there_are_some():
    assert {path.stem for path in NOTEBOOKS} >= {"rssm", "penalty", "agent"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_as_it_ran(path):
    """From top to bottom in one go, with its plots, and without an error."""
    assert path.stat().st_size < 300_000
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert all(output["output_type"] != "error" for output in outputs)
    assert all(output.get("name") != "stderr" for output in outputs)
    drawn = [cell for cell in code if "plt.subplots(" in "".join(cell["source"])]
    assert drawn
    for cell in drawn:
        assert any("image/png" in output.get("data", {}) for output in cell["outputs"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_in_the_site_and_run_by_ci(path):
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert f": notebooks/{path.name}\n" in site
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "--nbmake docs/notebooks\n" in script
