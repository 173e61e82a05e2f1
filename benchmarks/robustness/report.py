"""Tables in the layout of the paper's, with its numbers beside."""

import functools
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure.tables import text_table
from benchmarks.robustness.correlate import Correlation
from benchmarks.robustness.surface import singles

Result = Mapping[str, Any]
Cells = dict[str, dict[str, tuple[float, float]]]

# The paper's tables of one kind, with all levels, and its two that sum up.
LEVELS = {
    ("walker", "mask"): "table7",
    ("walker", "noise"): "table8",
    ("walker", "rotate"): "table9",
    ("quadruped", "mask"): "table10",
    ("quadruped", "noise"): "table11",
    ("quadruped", "rotate"): "table12",
}
SUMS = (
    ("Unseen perturbed states by batch size (Table 1)", ("table1",)),
    ("Unseen perturbed states (Tables 2, 13)", ("table2", "table13")),
    ("Unseen dynamics (Tables 3, 14)", ("table3", "table14")),
)


@functools.cache
def paper() -> dict[str, Any]:
    """What the paper reports (`paper.toml`)."""
    return tomllib.loads((Path(__file__).parent / "paper.toml").read_text("utf-8"))


def domain(result: Result) -> str | None:
    """The domain whose numbers the paper has; None for any other, and for states."""
    name = result["task"].partition("-")[0]
    fits = result["obs"] == "pixels" and name in ("walker", "quadruped")
    return name if fits else None


def cells(result: Result) -> Cells:
    """Mean and standard deviation over all trials, by arm and key of a condition.

    A trial is an episode of an agent of a last checkpoint.
    """
    found: Cells = {arm: {} for arm in result["arms"]}
    for kind in result["kinds"]:
        for arm in result["arms"]:
            mine = [i for i, who in enumerate(result["final"]) if who["arm"] == arm]
            returns = np.array(kind["returns"])[mine]
            for index, key in enumerate(kind["keys"]):
                trials = returns[:, index]
                found[arm][key] = (float(trials.mean()), float(trials.std()))
    return found


def tables(result: Result) -> str:
    """All tables, the paper's slips, and the surface."""
    parts = []
    if result["kinds"]:
        shown = cells(result)
        parts += [_levels(result, kind, shown) for kind in result["kinds"]]
        parts += [_sum(result, title, names, shown) for title, names in SUMS]
        if domain(result):
            slips = "\n".join(f"  {line}" for line in paper()["slips"])
            parts.append(f"Slips in the paper's tables:\n{slips}")
    if result["surface"]:
        parts.append(_surface(result["surface"]))
        parts.append(_singles(result))
    return "\n\n".join(part for part in parts if part)


def _levels(result: Result, kind: Mapping[str, Any], shown: Cells) -> str:
    """One kind, a row for each level: the layout of Tables 7 to 12."""
    table = LEVELS.get((domain(result) or "", kind["name"]))
    theirs = {row[0]: row[1:] for row in paper()[table]["rows"]} if table else {}
    head = [kind["name"], *result["arms"]]
    head += ["paper, with Jac.", "paper, baseline"] if table else []
    rows = []
    for key, level in zip(kind["keys"], kind["levels"], strict=True):
        row = [key, *(_spread(*shown[arm][key]) for arm in result["arms"])]
        if table:
            numbers = theirs.get(level) if key != "clean" else None
            pairs = (numbers[:2], numbers[2:]) if numbers else ((), ())
            row += [_spread(*pair) if pair else "" for pair in pairs]
        rows.append(row)
    title = f"{kind['name']}: mean ± standard deviation of {_trials(result)}"
    if table:
        title += f"; the paper's are its {table.replace('table', 'Table ')}"
    return f"{title}\n{text_table(head, rows)}"


def _sum(result: Result, title: str, names: Sequence[str], shown: Cells) -> str:
    """Some columns of several kinds, a row for each arm; empty where none was played.

    The paper's rows are those of the same domain. Its agents see images: of perturbed
    states there is nothing to compare with, of other gravities there is.
    """
    columns: list[str] = paper()[names[0]]["columns"]
    dynamics = columns[0].startswith("gravity")
    if not dynamics and result["obs"] != "pixels":
        return ""
    keys = ["clean" if column == "gravity:9.8" else column for column in columns]
    if not any(key in row for row in shown.values() for key in keys if key != "clean"):
        return ""
    rows = [
        [arm, *(f"{row[key][0]:.1f}" if key in row else "" for key in keys)]
        for arm, row in shown.items()
    ]
    mine = result["task"].partition("-")[0]
    for name in names:
        for label, numbers in paper()[name]["rows"].items():
            # Table 1 does not say its task; its noise is Walker's.
            theirs = "quadruped" if label.endswith("(Quad)") else "walker"
            if theirs == mine:
                rows.append(
                    [f"paper (images): {label}", *(f"{x:.1f}" for x in numbers)]
                )
    return f"{title}\n{text_table(['', *columns], rows)}"


def _surface(surface: Mapping[str, Any]) -> str:
    """Every agent's return, drop and norms; rank correlations; a paragraph."""
    names = list(surface["norms"])
    rows = []
    for index, who in enumerate(surface["agents"]):
        rows.append(
            [
                who["arm"],
                str(who["seed"]),
                f"{who['step']:,}",
                f"{surface['clean'][index]:.1f}",
                f"{surface['worst'][index]:.1f}",
                _percent(surface["drop"][index]),
                *(f"{surface['norms'][name][index]:.3g}" for name in names),
            ]
        )
    head = ["arm", "seed", "step", "return", "worst", "mean drop"]
    head += [f"‖J‖² {name}" for name in names]
    axes = " × ".join(
        f"{name} {', '.join(f'{level:g}' for level in levels)}"
        for name, levels in surface["axes"].items()
    )
    found = surface["correlations"]
    measures = list(next(iter(found.values())))
    ranks = [
        [name, *(_correlation(row[measure]) for measure in measures)]
        for name, row in found.items()
    ]
    return (
        f"Surface of {len(surface['grid'])} conditions: {axes}\n"
        f"{text_table(head, rows)}\n\n"
        "Rank correlations over agents (Spearman, 95 % interval over runs)\n"
        f"{text_table(['norm of', *measures], ranks)}\n\n{surface['paragraph']}"
    )


def _singles(result: Result) -> str:
    """What one change alone does: a row for each, over the last agents of each arm."""
    rows = []
    kept = kept_returns(result)
    for name in singles(result["surface"]):
        row = [name]
        for arm in result["arms"]:
            shares = [100 * x for x in kept[arm][name]]
            row.append(
                f"{np.mean(shares):.0f} ± {np.std(shares):.0f}" if shares else ""
            )
        rows.append(row)
    title = "One change alone: % of the return that is kept, mean ± standard deviation "
    title += "over the last agents"
    return f"{title}\n{text_table(['change', *result['arms']], rows)}"


def kept_returns(result: Result) -> dict[str, dict[str, list[float]]]:
    """By arm and single change, the share of its return that each last agent keeps."""
    surface = result["surface"]
    found: dict[str, dict[str, list[float]]] = {}
    for arm in result["arms"]:
        mine = [
            (returns, clean)
            for who, returns, clean in zip(
                surface["agents"], surface["returns"], surface["clean"], strict=True
            )
            if who["arm"] == arm and who["last"] and clean > 0
        ]
        found[arm] = {
            name: [returns[place] / clean for returns, clean in mine]
            for name, place in singles(surface).items()
        }
    return found


def _spread(mean: float, deviation: float) -> str:
    return f"{mean:.1f} ± {deviation:.1f}"


def _correlation(found: Mapping[str, Any] | None) -> str:
    return "too few" if found is None else str(Correlation(**found))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def _trials(result: Result) -> str:
    return f"{result['episodes']} episodes of every agent"
