"""Results of earlier calls, whose agents stand beside those that were just played.

Runs of many arms and seeds take days, on several machines; their agents are played
once, where they are.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.curves.arms import Arm, label_arms
from benchmarks.robustness.play import Trained
from benchmarks.robustness.surface import LAYOUT, summarize
from train.errors import UserError

Result = dict[str, Any]

# What all results must have in common.
_SAME = ("task", "obs", "episodes", "max_decisions", "seed", "copies", "decisions")
_SAME += ("eval_policy",)


def read_known(path: Path) -> Result:
    """A result that `--json` wrote, with the file's name as `path`.

    Raises:
        UserError: no such file, or no result of this benchmark.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--known {path}: cannot be read ({error})") from None
    if not isinstance(found, dict) or not {"settings", "final", "kinds"} <= set(found):
        raise UserError(
            f"--known {path}: allowed: a result of benchmarks.robustness with the "
            "settings of its runs"
        )
    return found | {"path": str(path)}


def joined(new: Result, known: Sequence[Result]) -> Result:
    """One result of the agents of all; of an agent that several have the last counts.

    Args:
        known: of the same conditions (`check`).
    """
    if not known:
        return new
    parts = [*known, new := _plain(new)]
    arms, names = _arms(parts)
    final = _Rows(parts, names, lambda part: part["final"])
    result = new | {
        "arms": list(arms),
        "settings": {label: arm._asdict() for label, arm in arms.items()},
        "final": [one._asdict() for one in final.who],
        "kinds": [
            kind | {"returns": final.of(lambda part, k=k: part["kinds"][k]["returns"])}
            for k, kind in enumerate(new["kinds"])
        ],
    }
    if new["surface"] is not None:
        rows = _Rows(parts, names, lambda part: part["surface"]["agents"])
        norms = {
            name: np.array(rows.of(lambda part, n=name: part["surface"]["norms"][n]))
            for name in new["surface"]["norms"]
        }
        returns = np.array(rows.of(lambda part: part["surface"]["returns"]))
        result["surface"] = summarize(new["surface"], rows.who, returns, norms)
    return result


def check(known: Result, new: Result) -> None:
    """Refuse a result whose conditions are not those of a new one.

    Args:
        new: a result, or what is known of it before anything is played.

    Raises:
        UserError: naming the first difference.
    """
    new = _plain(new)
    conditions = {name: (known.get(name), new.get(name)) for name in _SAME}
    levels = lambda part: [(kind["name"], kind["keys"]) for kind in part["kinds"]]
    conditions["grids"] = levels(known), levels(new)
    layout = lambda part: part["surface"] and [part["surface"][x] for x in LAYOUT]
    conditions["surface"] = layout(known), layout(new)
    for name, (theirs, ours) in conditions.items():
        if theirs != ours:
            raise UserError(
                f"--known {known['path']}: has {name} {_short(theirs)}, not "
                f"{_short(ours)}; allowed: a result of the same conditions"
            )


def _plain(result: Result) -> Result:
    """As it is read from a file: tuples are lists."""
    return json.loads(json.dumps(result))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _arms(parts: Sequence[Result]) -> tuple[dict[str, Arm], dict[tuple[int, str], str]]:
    """All arms by their new labels; those labels by part and its own label."""
    keys: dict[tuple[int, str], str] = {}
    arms: dict[str, Arm] = {}
    runs: dict[str, set[tuple[str, int]]] = {}
    for place, part in enumerate(parts):
        for label, fields in part["settings"].items():
            arm = Arm(**fields)
            key = json.dumps([arm.preset, arm.settings], sort_keys=True)
            keys[place, label] = key
            arms.setdefault(key, arm)
            runs.setdefault(key, set()).update(
                (one["run"], one["seed"])
                for one in part["final"]
                if one["arm"] == label
            )
    counted = [arm._replace(runs=len(runs[key])) for key, arm in arms.items()]
    labels = dict(zip(arms, label_arms(counted), strict=True))
    return (
        dict(zip(labels.values(), counted, strict=True)),
        {place: labels[key] for place, key in keys.items()},
    )


class _Rows:
    """The agents of all parts, each once, and what the parts know of them."""

    def __init__(self, parts: Sequence[Result], names: Mapping, agents: Any) -> None:
        found: dict[Trained, tuple[int, int]] = {}
        for place, part in enumerate(parts):
            for row, fields in enumerate(agents(part)):
                one = Trained(**fields)
                found[one._replace(arm=names[place, one.arm])] = place, row
        self._parts, self._places = parts, list(found.values())
        self.who = list(found)

    def of(self, values: Any) -> list[Any]:
        """A value of each agent, from the values of each part."""
        columns = [values(part) for part in self._parts]
        return [columns[place][row] for place, row in self._places]
