"""REINFORCE with noisy and biased rewards (*On Training in Imagination*, section 5).

The paper has no experiment here, only Figure 5 (three fidelity-cost regimes). This
study computes exactly: the variance added by reward noise, the mean of the estimator
without γ^t, the optimal fidelity for the total variance, and the number of rollouts
from which the reward bias dominates.
"""

from pathlib import Path

from benchmarks.theory.noise import measure, report
from benchmarks.theory.study import Progress, Study


def run(*, quick: bool, progress: Progress, run: Path | None = None) -> Study:
    """Theorem 2, Corollary 2 and Proposition 2, exactly and by simulation.

    Args:
        run: a trained run, whose agent is measured as well.
    """
    sizes = measure.QUICK if quick else measure.FULL
    variance = []
    for index, discount in enumerate(sizes.discounts):
        variance += measure.measure_variance(discount, sizes)
        progress(0.5 * (index + 1) / len(sizes.discounts))
    mdp, logits = measure.problem(0.9)
    fidelity = measure.measure_fidelity(mdp, logits)
    simulated = measure.measure_simulated_fidelity(mdp, logits, sizes)
    progress(0.75)
    bias = measure.measure_bias(mdp, logits, sizes)
    tables = report.tables(variance, fidelity, simulated, bias, quick)
    trained = {}
    if run is not None:
        # It loads the trainer, which the others need not.
        from benchmarks.theory.noise import agent

        trained = {"agent": agent.measure_agent(run, quick=quick)}
        tables += "\n\n" + agent.table(trained["agent"])
    progress(1.0)
    entries = {
        "quick": quick,
        "problem": {
            "states": measure.STATES,
            "actions": measure.ACTIONS,
            "horizon": measure.HORIZON,
            "seed": measure.SEED,
            "noise": measure.NOISE,
            "costs": list(measure.COSTS),
            "budget": measure.BUDGET,
        },
        "theorem_2": variance,
        "corollary_2": fidelity,
        "corollary_2_simulated": simulated,
        "proposition_2": bias,
        **trained,
    }
    return Study(
        tables=tables,
        entries=entries,
        draw=lambda figure: report.draw(figure, variance, simulated, bias),
    )
