"""Scaling laws of dynamics and reward errors: the experiment of Section 4.1.

The paper fits ε_f = 0.34 n^-0.11 and ε_r = 90.4 n^-0.96 and explains the small exponent
by the dimension of the target. Most of it is due to the student: the teacher has a tanh
output that is nearly always saturated, the student a linear one, so its error has a
floor. A student with a tanh output and the local slopes show the effect.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import NullFormatter

from benchmarks.measure.tables import text_table
from benchmarks.theory.scaling.students import Init, Sampling, draw_data, train
from benchmarks.theory.study import Progress, Study
from core.theory.powerlaw import bootstrap, fit, local_slopes
from envs.synthetic import teacher

ANCHORS = (2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000)
QUICK_ANCHORS = (200, 500, 1_000, 2_000, 5_000)
HELD_OUT = 5_000
SEEDS, QUICK_SEEDS = 3, 2
"""The paper has 100 seeds per anchor, which would take hours on two cores."""

HEADS = {
    "dynamics, linear head": "as in the paper",
    "dynamics, tanh head": "as in the teacher",
    "reward": "linear, as in the teacher",
}
PAPER = {
    "dynamics, linear head": {"scale": 0.34, "exponent": 0.11, "r_squared": 0.954},
    "reward": {"scale": 90.4, "exponent": 0.96, "r_squared": 0.997},
}

# Indices that split the study's key.
_TEST, _TRAIN, _REWARDS, _STUDENTS, _BOOTSTRAP = range(5)


def run(
    *,
    quick: bool,
    progress: Progress,
    init: Init = "torch",
    sampling: Sampling = "policy",
    seeds: int | None = None,
    anchors: tuple[int, ...] | None = None,
) -> Study:
    """Section 4.1, with both heads of the dynamics student.

    Args:
        quick: smaller anchors and two seeds.
        progress: called with the completed fraction.
        init: initialization of students; the paper's is "torch".
        sampling: source of transitions; the paper's is "policy".
        seeds: seeds per anchor, by default 3 (quick 2).
        anchors: training-set sizes.
    """
    anchors = anchors or (QUICK_ANCHORS if quick else ANCHORS)
    seeds = seeds or (QUICK_SEEDS if quick else SEEDS)
    made = teacher.make_teacher(jax.random.key(teacher.TeacherEnv.SEED))
    root = jax.random.key(0)
    test = draw_data(made, jax.random.fold_in(root, _TEST), HELD_OUT, sampling=sampling)
    errors: dict[str, list[np.ndarray]] = {head: [] for head in HEADS}
    work, done = np.array([_work(n) for n in anchors]), 0.0
    for n, share in zip(anchors, work / work.sum(), strict=True):
        sets, keys = {}, {}
        for branch in (_TRAIN, _REWARDS, _STUDENTS):
            start = jax.random.fold_in(jax.random.fold_in(root, branch), n)
            keys[branch] = jax.random.split(start, seeds)
        # Dynamics and reward samples are drawn independently, as in Theorem 1.
        for branch in (_TRAIN, _REWARDS):
            draw = jax.vmap(lambda k, n=n: draw_data(made, k, n, sampling=sampling))
            sets[branch] = draw(keys[branch])
        both = train(
            keys[_STUDENTS],
            sets[_TRAIN].inputs,
            sets[_TRAIN].next_states,
            (test.inputs, test.next_states),
            jnp.array([0.0, 1.0]),
            init=init,
        )
        done += 0.7 * share
        errors["dynamics, linear head"].append(np.asarray(both[0], float))
        errors["dynamics, tanh head"].append(np.asarray(both[1], float))
        progress(done)
        rewards = train(
            keys[_STUDENTS],
            sets[_REWARDS].inputs,
            sets[_REWARDS].rewards,
            (test.inputs, test.rewards),
            jnp.array([0.0]),
            init=init,
        )
        errors["reward"].append(np.asarray(rewards[0], float))
        done += 0.3 * share
        progress(done)
    measured = {head: np.stack(rows) for head, rows in errors.items()}
    entries = {
        "what": "held-out mean squared error of students against training-set size",
        "anchors": list(anchors),
        "seeds": seeds,
        "init": init,
        "sampling": sampling,
        "saturated": float(jnp.mean(jnp.abs(test.next_states) > 0.99)),
        "target_variance": {
            "dynamics": float(jnp.mean(jnp.var(test.next_states, axis=0))),
            "reward": float(jnp.var(test.rewards)),
        },
        "heads": {
            head: _summary(np.array(anchors, float), values, root)
            for head, values in measured.items()
        },
        "paper": PAPER,
    }
    progress(1.0)
    return Study(_tables(entries), entries, lambda figure: _draw(figure, entries))


def _work(n: int) -> float:
    """Relative time of an anchor: its batches plus compilation."""
    return -(-n // 256) + 5.0


def _summary(anchors: np.ndarray, errors: np.ndarray, key: jax.Array) -> dict[str, Any]:
    """Power-law fits of one head, to mean squared errors and to their roots."""
    found: dict[str, Any] = {"mse": errors.tolist()}
    for unit, values in (("mse", errors), ("rmse", np.sqrt(errors))):
        law, r_squared = fit(anchors, values)
        spread = bootstrap(
            anchors, values, key=jax.random.fold_in(key, _BOOTSTRAP), resamples=1000
        )
        found[f"fit_{unit}"] = {
            "scale": law.scale,
            "exponent": law.exponent,
            "r_squared": r_squared,
            "scale_interval": list(spread.scale[:2]),
            "exponent_interval": list(spread.exponent[:2]),
            "exponent_standard_error": spread.exponent.standard_error,
            "local_slopes": local_slopes(anchors, values).tolist(),
        }
    return found


def _tables(entries: dict[str, Any]) -> str:
    anchors = entries["anchors"]
    lines = [
        f"students of the teacher, {entries['seeds']} seeds, init {entries['init']}, "
        f"sampling {entries['sampling']}; "
        f"{100 * entries['saturated']:.0f} % of |s'| > .99",
        "",
    ]
    heads = entries["heads"].items()
    lines.append(
        text_table(
            ["mean squared error, n =", *(f"{n:,}" for n in anchors)],
            [
                [f"  {head}", *(f"{x:.4f}" for x in np.mean(found["mse"], axis=1))]
                for head, found in heads
            ],
        )
    )
    lines += [
        "",
        text_table(
            ["local slopes, from n =", *(f"{n:,}" for n in anchors[:-1])],
            [
                [f"  {head}", *(f"{x:.2f}" for x in found["fit_mse"]["local_slopes"])]
                for head, found in heads
            ],
        ),
    ]
    rows = []
    for head, found in heads:
        for unit in ("mse", "rmse"):
            f = found[f"fit_{unit}"]
            low, high = f["exponent_interval"]
            name = head if unit == "mse" else ""
            rows.append(_fit_row(name, unit, f, f"{low:.3f} to {high:.3f}"))
        if head in PAPER:
            rows.append(_fit_row("  the paper", "mse", PAPER[head], ""))
    titles = ["A n^-α", "unit", "A", "α", "95 % interval", "R²"]
    lines += ["", text_table(titles, rows, left=2)]
    return "\n".join(lines)


def _fit_row(name: str, unit: str, f: Mapping[str, Any], interval: str) -> list[str]:
    numbers = [f"{f['scale']:.3g}", f"{f['exponent']:.3f}", interval]
    return [f"  {name}", unit, *numbers, f"{f['r_squared']:.3f}"]


def _draw(figure: Figure | SubFigure, entries: dict[str, Any]) -> None:
    left, right = figure.subplots(1, 2)
    n = np.array(entries["anchors"], float)
    for index, (head, found) in enumerate(entries["heads"].items()):
        errors, colour = np.array(found["mse"]), f"C{index}"
        law = found["fit_mse"]
        seeds = errors.shape[1]
        left.errorbar(
            n,
            errors.mean(axis=1),
            errors.std(axis=1, ddof=1) / seeds**0.5 if seeds > 1 else None,
            fmt="o",
            markersize=4,
            color=colour,
            label=f"{head}: exponent {law['exponent']:.2f}",
        )
        left.plot(n, law["scale"] * n ** -law["exponent"], color=colour, linewidth=1)
        right.plot(
            np.sqrt(n[1:] * n[:-1]),
            law["local_slopes"],
            "o-",
            markersize=4,
            color=colour,
            label=head,
        )
        if head in PAPER:
            p = PAPER[head]
            left.plot(n, p["scale"] * n ** -p["exponent"], ":", color=colour)
            right.axhline(p["exponent"], linestyle=":", color=colour)
    left.set_yscale("log")
    left.set_ylabel("held-out mean squared error")
    left.set_title("scaling of the students (dotted: the paper's fits)")
    right.set_ylabel("local slope")
    right.set_title("exponent between two anchors (dotted: paper)")
    right.set_ylim(bottom=0)
    for panel in (left, right):
        panel.set_xscale("log")
        panel.set_xticks(n, [f"{x / 1000:g}k" for x in n])
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_xlabel("training transitions n")
        panel.grid(alpha=0.3, which="both")
    left.legend(fontsize="x-small")
