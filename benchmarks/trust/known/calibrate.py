"""How often each reason speaks against a model that is right, and against a wrong one.

Systems are drawn at random: linear ones with quadratic rewards (LQG) and the saturating
teacher networks of On Training in Imagination, section 4.1.
"""

from collections import Counter
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray
from matplotlib.figure import Figure

from benchmarks.measure.tables import text_table
from benchmarks.trust.known import candidates
from benchmarks.trust.known.measure import Case, Policy, make_measure_known
from benchmarks.trust.labels import PARTS
from benchmarks.trust.measure import Plan
from benchmarks.trust.summary import summarize
from benchmarks.trust.verdict import NAMES, reasons
from core.theory.attribution import System, imagined_return
from envs.synthetic import lqg, teacher

GAMMA, COPIES, CRITIC = 0.95, 16, 60
PLAN = Plan(
    copies=COPIES,
    decisions=120,
    starts=256,
    horizon=15,
    steps=15,
    discount=GAMMA,
    seed=0,
)
NOISE = {"lqg": 0.01, "teacher": 0.01}
"""Of the next state; that of actions is `measure.EXPLORE`."""
SIZES = (0.1, 0.3)
EXPANSION = 3.0
"""Factor of the next state that lets most of the linear systems grow."""


def plant(true: System, sizes: Array) -> System:
    """The system with an error of each size in reward, dynamics, continuation, value.

    In units of what they change: a constant share of the reward's and value's scale,
    an offset of each state entry, a share of the discount.
    """
    reward, dynamics, continuation, value = sizes
    return System(
        lambda s, a: true.dynamics(s, a) + dynamics * jnp.cos(3.0 * s),
        lambda s, a: true.reward(s, a) + reward,
        lambda s, a: true.discount(s, a) * (1.0 - continuation),
        lambda s: true.value(s) + value,
    )


def with_value(system: System, policy: Policy) -> System:
    """The system with a critic: its return without noise, over `CRITIC` steps."""
    value = lambda s: imagined_return(system, policy, s, CRITIC, longest=CRITIC)
    return system._replace(value=value)


def lqg_case(key: PRNGKeyArray, sizes: Array) -> Case:
    """A linear system with quadratic rewards and a linear policy."""
    keys = jax.random.split(key, 3)
    system = lqg.make_lqg(keys[0], dynamics_norm=0.6)
    gain = lqg.make_gain(keys[1], norm=0.5)
    true = System(
        partial(lqg.dynamics, system),
        partial(lqg.reward, system),
        lambda s, a: GAMMA * jnp.ones(()),
        lambda s: jnp.zeros(()),
    )
    true = with_value(true, lambda s: gain @ s)
    starts = jax.random.normal(keys[2], (COPIES, gain.shape[-1]))
    return Case(true, plant(true, sizes), lambda s: gain @ s, starts)


def teacher_case(key: PRNGKeyArray, sizes: Array) -> Case:
    """A teacher network and its reference policy."""
    keys = jax.random.split(key, 2)
    weights = teacher.make_teacher(keys[0], state_dim=6, action_dim=3)
    true = System(
        partial(teacher.dynamics, weights),
        partial(teacher.reward, weights),
        lambda s, a: GAMMA * jnp.ones(()),
        lambda s: jnp.zeros(()),
    )
    policy = lambda s: jnp.tanh(s @ weights.policy)
    true = with_value(true, policy)
    starts = jax.random.uniform(keys[1], (COPIES, 6), minval=-1.0)
    return Case(true, plant(true, sizes), policy, starts)


CASES = {"lqg": lqg_case, "teacher": teacher_case}


def calibrate(draws: int, *, sizes: tuple[float, ...] = SIZES) -> dict[str, Any]:
    """Rates of each reason, and how often the largest part is the planted one.

    Args:
        draws: random systems of each kind and planted error.
    """
    rows = []
    for kind, build in CASES.items():
        measure = make_measure_known(build, PLAN, noise=NOISE[kind])
        rows.append(_row(measure, kind, None, 0.0, draws))
        for place, part in enumerate(PARTS):
            for size in sizes:
                rows.append(_row(measure, kind, place, size, draws))
                rows[-1]["part"] = part
    return {
        "draws": draws,
        "noise": NOISE,
        "plan": PLAN._asdict(),
        "rows": rows,
        "candidates": _candidates(draws, sizes),
    }


def _candidates(draws: int, sizes: tuple[float, ...]) -> list[dict[str, Any]]:
    """The same of the numbers that have no flag, also where the truth expands."""
    expanding = candidates.expanding(lqg_case, EXPANSION)
    builds = [*CASES.items(), ("lqg, expanding", expanding)]
    rows = []
    for name, build in builds:
        noise = NOISE[name.partition(",")[0]]
        numbers = candidates.make_numbers(build, steps=PLAN.steps, noise=noise)
        for size in (0.0, *sizes):
            rows.append({"system": name} | candidates.rates(numbers, draws, size))
    return rows


def _row(
    measure: Any, kind: str, place: int | None, size: float, draws: int
) -> dict[str, Any]:
    spoken: Counter[str] = Counter()
    blamed, gaps = 0, []
    sizes = np.zeros(len(PARTS))
    if place is not None:
        sizes[place] = size
    for draw in range(draws):
        found = measure(jax.random.key(draw), jnp.asarray(sizes))
        summary = summarize(found, PLAN)
        names = {reason.name for reason in reasons(summary, PLAN.steps)}
        spoken.update(names)
        spoken["any"] += bool(names)
        means = {k: abs(v["mean"]) for k, v in summary["attribution"]["mean"].items()}
        gaps.append(means.pop("gap"))
        del means["model"]
        blamed += (
            place is not None and max(means, key=means.__getitem__) == PARTS[place]
        )
    return {
        "system": kind,
        "part": "none",
        "size": size,
        "rates": {name: spoken[name] / draws for name in (*NAMES, "any")},
        "blamed": blamed / draws if place is not None else None,
        "gap": float(np.mean(gaps)),
    }


def table(result: dict[str, Any]) -> str:
    """One row for each system and planted error."""
    head = ["system", "planted", "size", "right part", "|gap|", *NAMES, "any"]
    rows = []
    for row in result["rows"]:
        rates = [f"{row['rates'][name]:.0%}" for name in (*NAMES, "any")]
        blamed = "-" if row["blamed"] is None else f"{row['blamed']:.0%}"
        fixed = [row["system"], row["part"], f"{row['size']:g}", blamed]
        rows.append([*fixed, f"{row['gap']:.2g}", *rates])
    shown = text_table(head, rows, left=2)
    without = candidates.table(result["candidates"])
    return f"{shown}\n\nNumbers of the report without a flag:\n{without}"


def draw(result: dict[str, Any]) -> Figure:
    """The rates as a grid of colours."""
    names = [*NAMES, "any"]
    rows = result["rows"]
    labels = [f"{x['system']}: {x['part']} {x['size'] or ''}".rstrip() for x in rows]
    rates = np.array([[row["rates"][name] for name in names] for row in rows])
    figure = Figure(figsize=(8, 0.32 * len(rows) + 1.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.imshow(rates, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for (row, column), rate in np.ndenumerate(rates):
        ink = "white" if rate > 0.6 else "black"
        axes.text(column, row, f"{rate:.0%}", ha="center", va="center", color=ink)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_title("how often each reason speaks, by planted error and its size")
    return figure
