"""The SDE paper: its expansion, its errors, its bounds, Theorem A.6.

Four questions about *Towards Unraveling and Improving Generalization in World Models*:
is the expansion of the expected loss correct (is its remainder O(ε³)); what is the
effect of each error in the paper; how fast do two rollouts diverge (Theorem 4.1) and
does the flow grow (inequality 18); do small CNNs represent a low-dimensional manifold
(Theorem A.6).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure.tables import text_table
from benchmarks.theory.sde import cnn as sde_cnn
from benchmarks.theory.sde.draw import Results, draw
from benchmarks.theory.sde.errors import CASES, STATEMENTS, error_of
from benchmarks.theory.sde.errors_flow import RARE, example_rollout, rare_steepness
from benchmarks.theory.sde.systems import SYSTEMS, Outcome, outcome
from benchmarks.theory.study import Progress, Study
from core.theory.divergence import divergence, divergence_bound
from core.theory.flow import trajectories
from core.theory.sde import brownian


def run(*, quick: bool, progress: Progress) -> Study:
    """The whole study, in float64 except for the networks of Theorem A.6.

    `quick` has fewer paths, steps and networks; the list of errors is the same.
    """
    paths, steps = (2_000, 20) if quick else (20_000, 50)
    parts = len(SYSTEMS) + len(CASES) + 6
    done = 0

    def advance(by: float = 1.0) -> None:
        nonlocal done
        done += by
        progress(min(done / parts, 1.0))

    with jax.enable_x64(True):
        outcomes = {}
        for index, (name, system) in enumerate(SYSTEMS.items()):
            key = jax.random.fold_in(jax.random.key(0), index)
            outcomes[name] = outcome(system, key, paths=paths, steps=steps)
            advance()
        found = []
        for case in CASES.values():
            found += case()
            advance()
        found.sort(key=lambda f: (error_of(f), f.number))
        distances = _distances(paths)
        advance()
        flows = [rare_steepness(s) for s in RARE]
        advance()
    fraction = 0.0

    def partly(now: float) -> None:
        nonlocal fraction
        advance(4 * (now - fraction))
        fraction = now

    sizes = sde_cnn.study(quick=quick, progress=partly)
    results = Results(outcomes, found, distances, flows, sizes)
    return Study(
        _tables(results), _entries(results), lambda figure: draw(figure, results)
    )


def _distances(paths: int) -> dict[str, Any]:
    """Theorem 4.1's left side against δ = E‖ε‖, for two distributions of the error."""
    rollout = example_rollout()
    system = rollout.system()
    key, other = jax.random.split(jax.random.key(1))
    count = min(paths, 4_000)
    noise = brownian(key, paths=count, steps=8, size=2, dt=rollout.dt)
    start = jnp.array([0.3, -0.2, 0.5, 0.1, 0.4])
    # A Gaussian error of z alone; E‖ε‖² = 1 before scaling.
    unit = jax.random.normal(other, (count, 2)) / jnp.sqrt(2.0)
    unit = jnp.concatenate([jnp.zeros((count, 3)), unit], axis=1)
    deltas = np.geomspace(1e-3, 1e-1, 5)
    mean = float(jnp.mean(jnp.linalg.norm(unit, axis=1)))
    square = float(jnp.mean(jnp.sum(unit**2, axis=1)))
    gaussian = [divergence(system, start, d / mean * unit, noise) for d in deltas]
    # The same δ from an error of length 1 on a fraction δ of the paths.
    hit = jnp.arange(count) / count
    rare = []
    for delta in deltas:
        errors = jnp.where(
            (hit < delta)[:, None], jnp.array([[0, 0, 0, 0.6, 0.8]]), 0.0
        )
        rare.append(divergence(system, start, errors, noise))
    states = trajectories(system, start, noise)
    bound = divergence_bound(system, states, 8 * rollout.dt)
    logs = np.log(deltas)
    return {
        "delta": deltas.tolist(),
        "gaussian": [d.mean for d in gaussian],
        "rare": [d.mean for d in rare],
        "slope": float(np.polyfit(logs, np.log([d.mean for d in gaussian]), 1)[0]),
        "slope_rare": float(np.polyfit(logs, np.log([d.mean for d in rare]), 1)[0]),
        "bound": [bound * square * (d / mean) ** 2 for d in deltas],
        "bound_factor": bound,
    }


def _slope(one: Outcome, name: str) -> float:
    """The slope at the smallest resolved ε, where higher orders matter least."""
    slopes = one.checks[name].slopes
    return float(slopes[0]) if len(slopes) else float("nan")


def _tables(results: Results) -> str:
    lines = [
        "Remainder of the expansion: log-log slope at small ε (3 if correct to O(ε²))",
        text_table(
            ["", "corrected", "½ missing", "printed", "ε² term", "ε valid"],
            [_expansion_row(name, one) for name, one in results.outcomes.items()],
        ),
    ]
    lines += [
        "",
        "The paper's errors",
        # Not a text_table, because the statements span all columns.
        f"{'':62}{'printed':>10}{'true':>10}{'exact':>10}",
    ]
    last = 0
    for finding in results.found:
        if error_of(finding) != last:
            last = error_of(finding)
            lines.append(f"{last:2d}. {STATEMENTS[last]}")
        exact = "" if finding.exact is None else f"{finding.exact:10.4g}"
        true = 0.0 if abs(finding.true) < 1e-12 else finding.true
        lines.append(
            f"      {finding.quantity:56}{finding.printed:10.4g}{true:10.4g}{exact:>10}"
        )
    d = results.distances
    lines += [
        "",
        "Theorem 4.1: order of E sup‖x^ε − x⁰‖² in δ (printed bound: 1)",
        f"      small errors of all paths {d['slope']:.2f}; large errors of few paths "
        f"{d['slope_rare']:.2f}",
        f"      realized / our bound {d['gaussian'][0] / d['bound'][0]:.3f}",
        "",
        "Inequality (18): E‖Φ_T‖_F², drift slope s on 1/s² of the paths (E‖∂g‖² = 1)",
        text_table(
            ["s", "realized", "ours", "printed, C=1", "C=2", "C=4"],
            [
                [
                    str(steep),
                    f"{flow.realized.mean:.4g}",
                    f"{flow.bound:.4g}",
                    *(f"{flow.printed(c):.3g}" for c in (1.0, 2.0, 4.0)),
                ]
                for steep, flow in zip(RARE, results.flows, strict=True)
            ],
            left=0,
            indent=6,
        ),
        "",
        "Theorem A.6: mean error of trained networks, best seed",
        text_table(
            ["parameters", "encoder", "decoder", "round trip"],
            [
                [
                    str(size.parameters),
                    *(
                        f"{min(errors):.4f}"
                        for errors in (size.encoder, size.decoder, size.round_trip)
                    ),
                ]
                for size in results.sizes
            ],
            left=0,
            indent=6,
        ),
    ]
    powers = [
        f"{what.replace('_', ' ')} {sde_cnn.slope(results.sizes, what):.2f}"
        for what in ("encoder", "decoder", "round_trip")
    ]
    lines.append(
        f"      fitted exponents in the number of parameters: {', '.join(powers)}"
    )
    return "\n".join(lines)


def _expansion_row(name: str, one: Outcome) -> list[str]:
    kinds = ("corrected", "½ missing", "as printed")
    check = one.checks["corrected"]
    curve = check.second_order[0] / check.eps[0] ** 2
    slopes = [f"{_slope(one, kind):.2f}" for kind in kinds]
    return [name, *slopes, f"{curve:.3f}", f"{check.eps_valid:.2g}"]


def _finite(values: Any) -> list[float | None]:
    """Numbers for JSON, with None for NaN and infinity."""
    return [float(v) if np.isfinite(v) else None for v in np.ravel(values)]


def _entries(results: Results) -> dict[str, Any]:
    systems = []
    for name, one in results.outcomes.items():
        checks = {
            kind: {
                "eps": _finite(check.eps),
                "remainder": _finite(check.remainder),
                "standard_error": _finite(check.error),
                "second_order": _finite(check.second_order),
                "slopes": _finite(check.slopes),
                "eps_valid": check.eps_valid,
            }
            for kind, check in one.checks.items()
        }
        terms = {term: value._asdict() for term, value in one.terms.items()}
        about = SYSTEMS[name].about
        systems.append(
            {"system": name, "loss": about, "terms": terms, "checks": checks}
        )
    return {
        "expansion": systems,
        "errors": [
            {"error": error_of(f), "statement": STATEMENTS[error_of(f)], **f._asdict()}
            for f in results.found
        ],
        "theorem_4_1": results.distances,
        "inequality_18": [
            {
                "steepness": steep,
                "realized": flow.realized.mean,
                "bound": flow.bound,
                "rate": flow.rate,
                "mean_squares": _finite(flow.squares),
                "printed": {str(c): flow.printed(c) for c in (1.0, 2.0, 4.0)},
            }
            for steep, flow in zip(RARE, results.flows, strict=True)
        ],
        "theorem_a6": {
            "sizes": [size._asdict() for size in results.sizes],
            "slopes": {
                what: sde_cnn.slope(results.sizes, what)
                for what in ("encoder", "decoder", "round_trip")
            },
        },
    }
