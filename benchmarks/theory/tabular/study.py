"""Finite-difference smoothing in two tabular MDPs (GPLD, section 3).

Two questions that the paper leaves open: does the smoothness prior help if transition
probabilities are smooth in the embedding, and hurt if not (the control permutes the
embedding)? Do values and policies improve as much as transition probabilities?
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from benchmarks.cli import QUICK
from benchmarks.measure.tables import text_table
from benchmarks.theory.study import Progress, Study
from core.theory import tabular as tb
from core.theory import tabular_limit as limit

_SIDE = 8
_DISCOUNT = 0.95
_STRENGTH = 0.1
_WORLDS = {"push": tb.push_world, "swirl": tb.swirl_world}
_HELD_OUT = 5  # one transition in five is held out to choose λ
_UNIMIX = {"validation": 0.01, "validation, hardly mixed": 1e-6}
_METRICS = {"tv": "total variation", "value": "value error", "regret": "regret"}


class _Sizes(NamedTuple):
    numbers: tuple[int, ...]
    seeds: int
    strengths: tuple[float, ...]
    lattices: tuple[int, ...]


_FULL = _Sizes(
    numbers=(256, 1024, 4096),
    seeds=8,
    strengths=(0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    lattices=(8, 12, 16, 24, 32, 48),
)
_QUICK = _Sizes(
    numbers=(256, 1024, 4096),
    seeds=2,
    strengths=(0.03, 0.1, 0.3, 1.0),
    lattices=(8, 16, 24),
)

Scores = dict[str, list[dict[str, float]]]
"""For each estimator, one dictionary of metrics for each seed."""


def run(*, quick: bool, progress: Progress) -> Study:
    """Both MDPs at every number of transitions, then the limit of section 3.2."""
    sizes = _QUICK if quick else _FULL
    steps = len(_WORLDS) * len(sizes.numbers) * sizes.seeds
    done, found = 0, {}
    for name, make in _WORLDS.items():
        world = make(_SIDE)
        for number in sizes.numbers:
            scores: Scores = {}
            for seed in range(sizes.seeds):
                for estimator, score in _one(world, number, seed, sizes).items():
                    scores.setdefault(estimator, []).append(score)
                done += 1
                progress(0.95 * done / steps)
            found[name, number] = scores
    continuum = _continuum(sizes.lattices)
    progress(1.0)
    entries = {
        "quick": quick,
        "seeds": sizes.seeds,
        "discount": _DISCOUNT,
        "cases": [
            {"world": world, "transitions": number, "scores": scores}
            for (world, number), scores in found.items()
        ],
        "limit": continuum,
    }
    return Study(
        tables=_tables(found, continuum, quick),
        entries=entries,
        draw=lambda figure: _draw(figure, found, continuum, sizes),
    )


def _one(
    world: tb.EmbeddedMDP, number: int, seed: int, sizes: _Sizes
) -> dict[str, dict[str, float]]:
    """All estimators on one data set."""
    rng = np.random.default_rng(seed)
    held_out = number // _HELD_OUT
    train = tb.sample_counts(world.transition, number - held_out, rng=rng)
    check = tb.sample_counts(world.transition, held_out, rng=rng)
    counts = train + check
    near = tb.lattice_laplacian(_SIDE)
    shuffled = tb.shuffled_embedding(world, rng=rng)
    far = tb.graph_laplacian(shuffled.embedding, radius=1.01 / (_SIDE - 1))

    fits = {value: tb.fit(counts, near, strength=value) for value in sizes.strengths}
    parts = {
        value: tb.fit(train, near, strength=value).transition
        for value in sizes.strengths
    }
    control = tb.fit(counts, far, strength=_STRENGTH)
    policy = tb.optimal_policy(world.transition, world.reward, discount=_DISCOUNT)

    def score(model: np.ndarray, strength: float, gap: float) -> dict[str, float]:
        quality = _score(world, policy, model)
        return {**quality, "strength": strength, "gap": gap}

    scores = {
        "maximum likelihood": score(tb.maximum_likelihood(counts), 0.0, 0.0),
        "control": score(control.transition, _STRENGTH, control.gap),
    }
    for value, found in fits.items():
        scores[f"λ={value:g}"] = score(found.transition, value, found.gap)
    for name, unimix in _UNIMIX.items():
        surprise = {
            value: tb.held_out_surprise(model, check, unimix=unimix)
            for value, model in parts.items()
        }
        value = min(surprise, key=lambda key: surprise[key])
        scores[name] = scores[f"λ={value:g}"]
    return scores


def _score(
    world: tb.EmbeddedMDP, policy: np.ndarray, model: np.ndarray
) -> dict[str, float]:
    """Total variation, RMS error of the optimal policy's value, and regret."""
    value_in = lambda laws, policy: tb.policy_value(
        laws, world.reward, policy, discount=_DISCOUNT
    )
    value = value_in(world.transition, policy)
    planned = tb.optimal_policy(model, world.reward, discount=_DISCOUNT)
    error = value_in(model, policy) - value
    return {
        "tv": tb.total_variation(model, world.transition),
        "value": float(np.sqrt(np.mean(error**2))),
        "regret": float(np.mean(value - value_in(world.transition, planned))),
    }


def _continuum(lattices: Sequence[int]) -> dict[str, Any]:
    """Section 3.2 in float64: a small network, and one kernel on finer lattices."""
    steps = np.geomspace(0.1, 0.003, 6)
    with jax.enable_x64(True):
        one, two, three = jax.random.split(jax.random.key(0), 3)
        first, last = jax.random.normal(one, (3, 8)), jax.random.normal(two, (8, 6))
        fn = lambda x: jax.nn.softmax(jnp.tanh(x @ first) @ last)
        x = jnp.array([0.3, -0.2, 0.5])
        exact = float(limit.jacobian_energy(fn, x))
        errors = {}
        for sides in ("one", "both"):
            axes = limit.axis_directions(3, sides=sides)
            energies = [limit.difference_energy(fn, x, axes, h) for h in steps]
            errors[sides] = np.abs(np.array(energies, np.float64) / exact - 1.0)
        sphere = limit.sphere_directions(three, count=100_000, dimensions=3)
        ratio = float(limit.directional_energy(fn, x, sphere)) / exact
    tables = [limit.lattice_energy(side) for side in lattices]
    return {
        "steps": steps.tolist(),
        "relative_error": {sides: list(map(float, e)) for sides, e in errors.items()},
        "slope": {s: limit.log_slope(steps, e) for s, e in errors.items()},
        "sphere_ratio": ratio,
        "lattices": list(lattices),
        "lattice_energy": [energy._asdict() for energy in tables],
    }


_ROWS = {
    "maximum likelihood": "maximum likelihood",
    f"λ={_STRENGTH:g}": f"smoothed, λ={_STRENGTH:g}",
    "control": "smoothed, shuffled embedding",
    "validation": "smoothed, λ by validation",
    "validation, hardly mixed": "  the same, less mixed",
}


def _tables(
    found: Mapping[tuple[str, int], Scores], continuum: dict[str, Any], quick: bool
) -> str:
    lines = ["Finite-difference smoothing of tabular transition laws (GPLD, eq. 1)"]
    if quick:
        lines.append(f"--quick: {QUICK}")
    lines.append(
        "means ± standard errors over seeds, median λ; 'best' has the lowest mean.\n"
        "Validation: P mixed with 1 % uniform, or with 1e-6 (less mixed).\n"
    )
    for (world, number), scores in found.items():
        rows = [_row(label, scores[name]) for name, label in _ROWS.items()]
        for metric, label in _METRICS.items():
            best = scores[_best(scores, metric)]
            rows.append(_row(f"smoothed, best λ for {label}", best))
        head = [f"{world}, {number:,} transitions", *_METRICS.values(), "λ"]
        lines += [text_table(head, rows), ""]
    slope = continuum["slope"]
    lattice = continuum["lattice_energy"][-1]
    lines += [
        "The limit (eqs. 2-4)",
        f"slope of the error in the step: {slope['one']:.2f} from one side (as "
        f"printed), {slope['both']:.2f} from both (a lattice)",
        f"d·E‖Ju‖²/‖J‖² over 100,000 directions: {continuum['sphere_ratio']:.4f}",
        f"(energy per state / cell volume) / continuum, finest lattice: "
        f"{lattice['per_state_density'] / lattice['continuum']:.4f}",
    ]
    return "\n".join(lines)


def _row(label: str, scores: Sequence[Mapping[str, float]]) -> list[str]:
    cells = [f"  {label}"]
    for metric in _METRICS:
        values = np.array([score[metric] for score in scores])
        error = values.std(ddof=1) / len(values) ** 0.5
        cells.append(f"{values.mean():.3f} ± {error:.3f}")
    strength = float(np.median([score["strength"] for score in scores]))
    return [*cells, f"{strength:g}"]


def _best(scores: Scores, metric: str) -> str:
    names = [name for name in scores if name.startswith("λ=")]
    return min(names, key=lambda name: np.mean([s[metric] for s in scores[name]]))


def _draw(
    figure: Figure | SubFigure,
    found: Mapping[tuple[str, int], Scores],
    continuum: dict[str, Any],
    sizes: _Sizes,
) -> None:
    panels = figure.subplots(2, 4)
    for row, world in zip(panels, _WORLDS, strict=True):
        for panel, (metric, label) in zip(row, _METRICS.items(), strict=False):
            for color, number in enumerate(sizes.numbers):
                scores = found[world, number]
                _curve(panel, scores, metric, sizes, number, f"C{color}")
            panel.set_xscale("log")
            panel.set_ylim(bottom=0.0)
            panel.set_title(f"{world}: {label}", fontsize="medium")
            panel.set_xlabel("λ")
            panel.grid(alpha=0.3)
    keys = [
        *panels[0, 0].get_legend_handles_labels()[0],
        Line2D([], [], color="k", linestyle="--", label="maximum likelihood"),
        Line2D([], [], color="k", marker="x", ls="", label="shuffled embedding"),
        Line2D([], [], color="k", marker="D", ls="", mfc="none", label="validation"),
    ]
    figure.legend(handles=keys, loc="outside lower left", ncols=6, fontsize="x-small")
    steps = np.array(continuum["steps"])
    for sides, color in (("one", "C3"), ("both", "C4")):
        label = f"{sides}: slope {continuum['slope'][sides]:.2f}"
        panels[0, 3].loglog(
            steps, continuum["relative_error"][sides], "o-", color=color, label=label
        )
    panels[0, 3].set_title("eq. 3: relative error", fontsize="medium")
    panels[0, 3].set_xlabel("step h")
    panels[0, 3].legend(title="sides", fontsize="x-small", title_fontsize=7)
    panels[0, 3].grid(alpha=0.3)
    energies = continuum["lattice_energy"]
    for field, label in (
        ("per_state", "as printed"),
        ("per_state_density", "over cell volume"),
    ):
        ratios = [energy[field] / energy["continuum"] for energy in energies]
        panels[1, 3].loglog(continuum["lattices"], ratios, "s-", label=label)
    panels[1, 3].axhline(1.0, color="k", linewidth=0.8, linestyle=":")
    panels[1, 3].set_title("penalty of a state / continuum", fontsize="medium")
    panels[1, 3].set_xlabel("lattice points per side")
    panels[1, 3].xaxis.set_minor_formatter(NullFormatter())
    sides = [str(side) for side in continuum["lattices"]]
    panels[1, 3].set_xticks(continuum["lattices"], sides)
    panels[1, 3].legend(fontsize="x-small")
    panels[1, 3].grid(alpha=0.3)


def _curve(
    panel: Any, scores: Scores, metric: str, sizes: _Sizes, number: int, color: str
) -> None:
    """Smoothed, against λ; maximum likelihood (dashed); shuffled control (cross)."""

    def mean(name: str) -> float:
        return float(np.mean([score[metric] for score in scores[name]]))

    curve = [mean(f"λ={value:g}") for value in sizes.strengths]
    panel.plot(
        sizes.strengths, curve, "o-", color=color, label=f"{number:,} transitions"
    )
    panel.axhline(mean("maximum likelihood"), color=color, linestyle="--")
    panel.plot([_STRENGTH], [mean("control")], "x", color=color, markersize=8)
    chosen = float(np.median([score["strength"] for score in scores["validation"]]))
    panel.plot([chosen], [mean("validation")], "D", color=color, fillstyle="none", ms=9)
