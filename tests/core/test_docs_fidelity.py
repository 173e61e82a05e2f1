"""docs/fidelity.md names flags that exist, and the figures that the test allows."""

import re
from pathlib import Path

import test_fidelity

from train.config.fields import flags
from train.config.schema import Config

PAGE = Path(__file__).parents[2] / "docs" / "fidelity.md"


def test_every_flag_exists():
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", PAGE.read_text("utf-8")))
    assert {"--eval-policy", "--lambda-min", "--prefill"} <= named
    assert not named - {flag.name for flag in flags(Config)}


def test_the_errors_it_states_are_allowed():
    table = PAGE.read_text("utf-8").split("largest error |")[1].split("\n\n")[0]
    stated = [float(x) for x in re.findall(r"(\de-\d|\d\.\de-\d) \|", table)]
    assert len(stated) == 5
    assert max(stated) < test_fidelity.TOLERANCE
