"""`benchmarks.theory noise --run`: Theorem 2 and Corollary 2 for a trained agent."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from saved_run import configured, random_state, save_run

from benchmarks.theory.noise import agent as study
from benchmarks.theory.noise.measure import MODELS
from benchmarks.trust.episodes import Heads
from core.states import State
from train.errors import UserError

DISCOUNT, STEPS = 0.9, 4


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    config = configured("--env toy-target")
    state = random_state(config)
    return save_run(tmp_path_factory.mktemp("run") / "toy", config, state), state


def windows_of(agent, count: int) -> Any:
    """Windows with the fields that are read; every latent state is the same."""
    rng = np.random.default_rng(0)
    rssm, size = agent.model.rssm, agent.policy.mean.bias.size
    draw = lambda *shape: jnp.asarray(rng.normal(size=(count, STEPS + 1, *shape)))
    one = jnp.asarray(rng.normal(size=rssm.deter), jnp.float32)
    deter = jnp.broadcast_to(one, (count, STEPS + 1, rssm.deter))
    stoch = rssm.initial(count, STEPS + 1).stoch
    value = jnp.asarray(draw(), jnp.float32)
    return SimpleNamespace(
        latent=State(deter, stoch),
        noise=jnp.asarray(draw(size), jnp.float32),
        reward=jnp.asarray(draw(), jnp.float32),
        heads=Heads(value, value, value),
    )


jax.tree_util.register_pytree_node(
    SimpleNamespace,
    lambda x: (tuple(vars(x).values()), tuple(vars(x))),
    lambda names, values: SimpleNamespace(**dict(zip(names, values, strict=True))),
)


@pytest.mark.long
def test_moments_are_those_of_plain_gradients(saved):
    agent = saved[1].learner.agent
    windows = windows_of(agent, 3)
    found = study.moments(agent, windows, DISCOUNT)
    flat, restore = ravel_pytree(agent.policy)
    powers = DISCOUNT ** np.arange(STEPS)
    estimates, squares = [], []
    for place in range(3):
        features = windows.latent.features[place]
        scores = []
        for t in range(STEPS):
            action = agent.policy(features[t]).at(windows.noise[place, t])
            score = jax.grad(lambda f: restore(f)(features[t]).log_prob(action))  # noqa: B023
            scores.append(np.asarray(score(flat), np.float64))
        earned = powers * np.asarray(windows.reward[place, 1:])
        value = np.asarray(windows.heads.value[place], np.float64)
        plain, baseline = (
            sum(scores[t] * x for t, x in enumerate(each))
            for each in (
                [earned[t:].sum() for t in range(STEPS)],
                [
                    earned[t:].sum()
                    + DISCOUNT**STEPS * value[-1]
                    - powers[t] * value[t]
                    for t in range(STEPS)
                ],
            )
        )
        estimates.append((plain, baseline))
        squares.append([float(score @ score) for score in scores])
    for key, place in (("clean", 0), ("clean_critic", 1)):
        rows = np.array([each[place] for each in estimates])
        wanted = np.var(rows, axis=0, ddof=1).sum()
        assert found[key] == pytest.approx(wanted, rel=1e-3)
    sums = [sum(powers[t:] ** 2) for t in range(STEPS)]
    assert found["gain"] == pytest.approx(np.mean(squares, axis=0) @ sums, rel=1e-3)
    assert found["bound"] > found["gain"]


@pytest.mark.long
def test_scores_are_uncorrelated_so_that_both_forms_of_the_gain_agree(saved):
    agent = saved[1].learner.agent
    found = study.moments(agent, windows_of(agent, 2000), DISCOUNT)
    error = 4 * found["gain_error"]
    assert abs(found["gain_direct"] - found["gain"]) < error < 0.3 * found["gain"]


def test_the_regime_is_that_of_the_dominant_variance():
    """Almost without V₀ both objectives agree; where it dominates, cheap is best."""
    for name in MODELS:
        assert study.regime(name, 1e-9, 1.0, "none")["agrees"]
        assert study.regime(name, 1e9, 1.0, "none")["total"] == "lowest"
    found = study.regime("power law, p = 2", 1.0, 1.0, "critic")
    assert found["noise_only"] == "highest" and found["total"] == "interior"
    assert not found["agrees"] and found["variance_ratio"] > 1


def test_a_run_is_measured(saved):
    found = study.measure_agent(saved[0], quick=True)
    assert 0 < found["windows"] <= study.QUICK_WINDOWS
    assert found["clean"] > 0 and found["gain"] > 0
    assert len(found["corollary_2"]) == 2 * len(MODELS)
    ratios = list(found["noise_over_clean"].values())
    assert ratios == sorted(ratios) and ratios[0] > 0
    text = study.table(found)
    assert "σ²M/V₀" in text and max(map(len, text.splitlines())) <= 100


def test_short_episodes_are_refused(saved, monkeypatch):
    monkeypatch.setattr(study, "STEPS", 1000)
    with pytest.raises(UserError, match="no episode goes on for 1000 steps"):
        study.measure_agent(saved[0], quick=True)
