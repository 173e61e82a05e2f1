"""docs/fidelity.md names flags that exist, and the figures of the committed result."""

import json
import re
from pathlib import Path

import test_fidelity

from train.config.fields import flags
from train.config.schema import Config

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "fidelity.md"
RESULT = ROOT / "benchmarks" / "results" / "cpu-2-cores" / "fidelity.json"


def test_every_flag_exists():
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", PAGE.read_text("utf-8")))
    assert {"--eval-policy", "--lambda-min", "--prefill"} <= named
    assert not named - {flag.name for flag in flags(Config)}


def test_the_errors_it_states_are_the_committed_ones():
    table = PAGE.read_text("utf-8").split("largest error |")[1].split("\n\n")[0]
    stated = [float(x) for x in re.findall(r"(\de-\d|\d\.\de-\d) \|", table)]
    assert max(stated) < test_fidelity.TOLERANCE
    measured: dict[str, float] = {}
    for test in json.loads(RESULT.read_text("utf-8"))["tests"].values():
        for group, error in test["tries"].items():
            measured[group] = max(measured.get(group, 0.0), error)
    measured["loss"] = max(measured["loss"], measured.pop("reconstruction"))
    groups = ("latent", "imagined", "return", "loss", "gradient")
    assert stated == [float(f"{measured[group]:.1e}") for group in groups]
