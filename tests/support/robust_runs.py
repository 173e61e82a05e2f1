"""Runs for `benchmarks.robustness`: saved, not trained."""

from pathlib import Path

import equinox as eqx
import jax
from saved_run import configured, random_state, save_run

from train.config import Config
from train.program.state import RunState


def sensitive(config: Config) -> RunState:
    """Random weights of which the encoder's and the posterior's are large: with small
    ones no noise on an observation would ever draw another z."""
    state = random_state(config)
    where = lambda a: (a.model.encoder, a.model.rssm.posterior_in.linear)
    larger = lambda part: jax.tree.map(lambda x: 10 * x, part)
    agent = eqx.tree_at(where, state.learner.agent, replace_fn=larger)
    return state._replace(learner=state.learner._replace(agent=agent))


def save_runs(folder: Path) -> list[str]:
    """Two seeds of one arm and one of another, on a toy without physics."""
    found = []
    for name, words in (
        ("a0", "--penalty none --seed 0"),
        ("a1", "--penalty none --seed 1"),
        ("b0", "--penalty xla --seed 0"),
    ):
        config = configured(f"--env toy-target {words}")
        state = sensitive(config)
        found.append(str(save_run(folder / name, config, state, (200, 400))))
    return found
