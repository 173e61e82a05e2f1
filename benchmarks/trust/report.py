"""The report as text for the terminal and as the sections of a page."""

import math
from collections.abc import Sequence
from typing import Any

from benchmarks.measure.page import Picture, Section, Table
from benchmarks.measure.tables import text_table
from benchmarks.trust.draw import draw
from benchmarks.trust.labels import PARTS, label, strongest

SHOWN = 4  # features that go with the error most


def text(result: dict[str, Any]) -> str:
    """The whole report in about a dozen lines for each agent."""
    blocks = ["\n".join(_lines(result, agent)) for agent in result["agents"]]
    if len(result["agents"]) > 1:
        first = label(result["agents"][0])
        head, rows = paired(result)
        blocks.append(f"At the states of {first}:\n{text_table(head, rows)}")
    return "\n\n".join(blocks)


def _lines(result: dict[str, Any], agent: dict[str, Any]) -> list[str]:
    summary = agent["summary"]
    lines = [
        f"{label(agent)}: step {agent['step']:,}, {summary['starts']} states of "
        f"{summary['episodes']} episodes of {result['task']}",
        text_table(*by_horizon(result, agent), indent=2),
    ]
    if "attribution" in summary:
        lines += [f"  {line}" for line in attribution(summary["attribution"])]
    lines += [f"  {line}" for line in (_critic(summary), _length(agent))]
    if "norms" in summary:
        lines.append(f"  {_norms(summary['norms'])}")
    if "latent noise" in summary:
        lines.append(f"  {_latent_noise(summary['latent noise'])}")
    if "initial error" in summary:
        lines.append(f"  {_initial_error(summary['initial error'])}")
    if "curvature" in summary:
        lines.append(f"  {_curvature(summary['curvature'])}")
    if "bounds" in summary:
        lines.append(f"  {_bounds(summary['bounds'])}")
    if "budget" in agent:
        lines.append(f"  {budget(agent['budget'])}")
    lines += [f"  {_where(summary['where'])}", f"  {agent['verdict']}"]
    return lines


def horizons(result: dict[str, Any]) -> list[int]:
    """Which horizons are shown: 1, 5, the imagination length, the longest."""
    plan = result["plan"]
    return sorted({1, min(5, plan["horizon"]), plan["steps"], plan["horizon"]})


def by_horizon(
    result: dict[str, Any], agent: dict[str, Any]
) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of errors by horizon."""
    rows, shown = agent["summary"]["horizons"], horizons(result)
    pick = lambda make: [make(h - 1) for h in shown]
    ranged = lambda key: lambda at: _ranged(rows[key], at)
    root = lambda key: lambda at: f"{max(rows[key]['mean'][at], 0) ** 0.5:.3g}"
    return ["imagined steps", *map(str, shown)], [
        ["observation error / variance", *pick(ranged("observation"))],
        ["  if nothing changed", *pick(ranged("unchanged"))],
        ["reward, root mean square error", *pick(root("reward squared error"))],
        ["return, imagined less true", *pick(ranged("return bias"))],
        ["return, root mean square error", *pick(root("return squared error"))],
        [
            "  spread of true returns",
            *pick(lambda at: f"{rows['return spread'][at]:.3g}"),
        ],
        ["  correlation", *pick(lambda at: _number(rows["return correlation"][at]))],
    ]


def attribution(found: dict[str, Any]) -> list[str]:
    """The return error of the policy and its parts, in two lines."""
    steps, means = found["steps"], found["mean"]
    parts = ", ".join(f"{name} {_ranged(means[name])}" for name in PARTS)
    return [
        f"return of {steps} steps and what follows: true less imagined "
        f"{_ranged(means['gap'])} (of {found['return']:.3g} ± "
        f"{found['return spread']:.2g})",
        f"= {parts} (residual {found['largest residual']:.0e})",
    ]


def _critic(summary: dict[str, Any]) -> str:
    found = summary["critic"]
    return (
        f"critic: error {found['rmse']:.3g}, bias {found['bias']:+.2g}, correlation "
        f"{_number(found['correlation'])} with realized returns of spread "
        f"{found['spread']:.3g}"
    )


def _length(agent: dict[str, Any]) -> str:
    found, steps = agent["summary"]["value"], agent["imagination length"]
    means = found["squared error"]["mean"]
    root = lambda h: f"{means[h] ** 0.5:.3g}" if h < len(means) else "not measured"
    return (
        f"imagination length: value error lowest at {found['best']} "
        f"({root(found['best'])}), no worse at {ranges(found['flat'])}; trained with "
        f"{steps} ({root(steps)}); the critic alone {root(0)}; {_choice(agent)}"
    )


def _choice(agent: dict[str, Any]) -> str:
    chosen, trained = agent["chosen length"], agent["imagination length"]
    if chosen is None:
        return "none is recommended"
    measured = len(agent["summary"]["value"]["squared error"]["mean"]) - 1
    further = ", the longest measured" if chosen == measured else ""
    return f"{'keep' if chosen == trained else 'recommended:'} {chosen}{further}"


def _norms(found: dict[str, Any]) -> str:
    shown = ("posterior", "prior", "recurrent", "closed_loop", "rollout")
    norms = ", ".join(
        f"{name.replace('_', ' ')} {found['spectral'][name]['median']:.2g}"
        for name in shown
    )
    grown = found["growth"]["median"]
    return (
        f"median ‖J‖₂ (lower bounds): {norms}; ‖Φ_t‖_F/√n from {grown[0]:.2g} to "
        f"{grown[-1]:.2g} in {len(grown)} steps"
    )


def _latent_noise(found: dict[str, Any]) -> str:
    valid = f"valid to σ = {found['valid']:g}" if found["valid"] else "valid for no σ"
    return (
        f"an error N(0, σ²) of z in each of {found['steps']} steps changes the return "
        f"of {found['return']:.3g} by {found['second order']:.2g} σ² "
        f"(± {found['standard error']:.1g}), {valid}"
    )


def _initial_error(found: dict[str, Any]) -> str:
    at = found["sigma"].index(0.1)
    mean, drawn = (found["d"][name][at] for name in ("mean field", "sampled"))
    return (
        f"squared distance after an error of z at the start, within {found['steps']} "
        f"steps, by the error's square: {found['first order']:.3g} to first order, at "
        f"σ = 0.1 {mean:.3g}, and {drawn:.3g} where z is drawn; E‖Φ‖_F² "
        f"{found['flow']:.2g}, bound (18) {power(found['flow bound, log10'])}"
    )


def _curvature(found: dict[str, Any]) -> str:
    return (
        f"prediction loss {found['loss']:.3g}; trace of its Hessian in z "
        f"{found['trace']:.3g} (± {found['standard error']:.1g}), over "
        f"{found['entries']} entries"
    )


def _bounds(found: dict[str, Any]) -> str:
    words = ", ".join(
        f"{name} {each['bound']:.2g}{' (vacuous)' if each['vacuous'] else ''}"
        for name, each in found["bounds"].items()
    )
    return f"largest error of a return {found['largest gap']:.3g}; bounds: {words}"


def budget(found: dict[str, Any]) -> str:
    """The split of Theorem 1, or why there is none."""
    if "refused" in found:
        return f"split of a sample budget: not measured, as {found['refused']}"
    exponents = ", ".join(
        f"{name} {found[name]['exponent']:.2f} "
        f"[{found[name]['low']:.2f}, {found[name]['high']:.2f}]"
        for name in ("dynamics", "reward")
    )
    below = ", below the counts that were fitted" if found["extrapolated"] else ""
    return (
        f"split of a budget of {found['budget']:,} samples at equal costs (Theorem 1): "
        f"{found['ratio']:.2g} [{found['low']:.2g}, {found['high']:.2g}] of dynamics "
        f"for each of reward{below}; exponents {exponents}, κ {found['kappa']:.2g}"
    )


def _where(found: dict[str, Any]) -> str:
    return "error of the return goes with " + ", ".join(
        f"{name} ({rho['return']:+.2f})" for name, rho in strongest(found)[:SHOWN]
    )


def power(exponent: float | None) -> str:
    """10 to a power that may be too large for a number; 0 for None."""
    if exponent is None:
        return "0"
    if abs(exponent) < 4:
        return f"{10**exponent:.2g}"
    whole = math.floor(exponent)
    return f"{10 ** (exponent - whole):.1f}e{whole:+03d}"


def ranges(numbers: Sequence[int]) -> str:
    """Integers in order, runs of them joined: "0-3, 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    ends = lambda run: f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}"
    return ", ".join(map(ends, runs))


def paired(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """All agents at the same states of the first one's episodes."""
    at = result["plan"]["steps"] - 1
    rows = []
    for agent in result["agents"]:
        found = agent["paired"]
        rows.append(
            [
                label(agent),
                _ranged(found["observation"], at),
                _ranged(found["return bias"], at),
                f"{found['return squared error']['mean'][at] ** 0.5:.3g}",
                _number(found["return correlation"][at]),
            ]
        )
    steps = result["plan"]["steps"]
    head = ["agent", f"observation error, {steps} steps", "return bias"]
    return [*head, "return error", "correlation"], rows


def sections(result: dict[str, Any], notice: str = "") -> list[Section]:
    """The body of the page; `notice` stands below the verdict."""
    found = [
        Section(
            "Verdict",
            [
                Table(
                    ["agent", "", "step", "states", "episodes"],
                    [_judged(agent) for agent in result["agents"]],
                    left=2,
                ),
                *([notice] if notice else []),
            ],
        )
    ]
    for agent in result["agents"]:
        summary = agent["summary"]
        parts: list[Any] = [Table(*by_horizon(result, agent))]
        if "attribution" in summary:
            parts += attribution(summary["attribution"])
        parts += [_critic(summary), _length(agent)]
        if "latent noise" in summary:
            noise = summary["latent noise"]
            parts += [_latent_noise(noise), _changes(noise)]
        if "initial error" in summary:
            parts.append(_initial_error(summary["initial error"]))
        if "curvature" in summary:
            parts.append(_curvature(summary["curvature"]))
        if "bounds" in summary:
            parts.append(_bounds(summary["bounds"]))
        if "budget" in agent:
            parts.append(budget(agent["budget"]))
        if "norms" in summary:
            parts += [_norms(summary["norms"]), _spectral(summary["norms"])]
        where = [
            [name, _number(rho["return"]), _number(rho["observation"])]
            for name, rho in strongest(summary["where"])
        ]
        parts.append(Table(["rank correlation with", "return", "observation"], where))
        found.append(Section(label(agent), parts))
    if len(result["agents"]) > 1:
        found.append(Section("At the same states", [Table(*paired(result))]))
    caption = (
        "Errors of true branches by horizon; the parts of the return error; the error "
        "of the value estimate by imagination length; what the error goes with. Bands "
        "and bars are 95 % intervals over episodes."
    )
    return [*found, Section("Pictures", [Picture(draw(result), caption)])]


def _judged(agent: dict[str, Any]) -> list[str]:
    counts = (agent["summary"][key] for key in ("starts", "episodes"))
    measured = [f"{number:,}" for number in (agent["step"], *counts)]
    return [label(agent), agent["verdict"], *measured]


def _changes(found: dict[str, Any]) -> Table:
    rows = [
        [f"{sigma:g}", f"{found['second order'] * sigma**2:.2g}", f"{change:.2g}"]
        for sigma, change in zip(found["sigma"], found["change"], strict=True)
    ]
    return Table(["σ", "second order", "realized change"], rows)


def _spectral(found: dict[str, Any]) -> Table:
    rows = [
        [name, *(f"{norm[key]:.3g}" for key in ("median", "upper", "largest"))]
        + [f"{norm['converged']:.0%}"]
        for name, norm in found["spectral"].items()
    ]
    return Table(["‖J‖₂ of", "median", "90 %", "largest", "converged"], rows)


def _ranged(values: dict[str, Any], at: int | None = None) -> str:
    pick = (lambda x: x) if at is None else (lambda x: x[at])
    mean, low, high = (pick(values[key]) for key in ("mean", "low", "high"))
    return f"{mean:.2g} [{low:.2g}, {high:.2g}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
