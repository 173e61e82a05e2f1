"""Theorem 2 and Corollary 2 for a trained agent: is it in their regime?

REINFORCE of the agent's policy on H steps of its own episodes, from visited states.
With w_t = ∇log π(a_t|x_t) by all parameters of the policy, one window estimates

    ĝ = Σ_t w_t Σ_{t≤k<H} γ^k r_k

`clean`: V₀, its variance. With a critic as the baseline, as in practice, γ^H v̂(x_H) is
added to the return and γ^t v̂(x_t) is subtracted from it. `gain`: M, so that reward
noise of variance σ² adds σ²M, by Theorem 2's exact form, Σ_t E‖w_t‖² Σ_k γ^{2k};
`gain_direct`: without its assumption that scores are uncorrelated,
Σ_k γ^{2k} E‖Σ_{t≤k} w_t‖². Corollary 2 neglects V₀, so that it needs σ²M ≫ V₀.
"""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from benchmarks.measure.tables import text_table
from benchmarks.theory.noise.measure import MODELS, optimum, total_variance
from benchmarks.trust.episodes import Episodes, goes_on, make_record
from core.agent import Agent
from core.theory import reward_noise as rn
from train.errors import UserError
from train.preflight import setup
from train.rollout.scores import load_agents
from train.run_dir.record import read_run

STEPS = 15
COPIES, DECISIONS, WINDOWS = 16, 501, 512
QUICK_COPIES, QUICK_DECISIONS, QUICK_WINDOWS = 2, 40, 32
COSTS_OF_NOISE = (1e-2, 1e-1, 1.0, 10.0)
"""Variances of reward noise, in units of the rewards' own variance."""


def measure_agent(run_dir: Path, *, quick: bool) -> dict[str, Any]:
    """The first agent of a run: V₀, M, and what Corollary 2 says of each noise model.

    Noise variances are in units of the variance of the rewards.

    Raises:
        UserError: there is no agent, or no window of `STEPS` steps in its episodes.
    """
    setup.enable_compilation_cache()
    config = read_run(run_dir)
    env = setup.make_env(config)
    step, agents = load_agents(run_dir, config, env)
    copies, decisions, count = COPIES, DECISIONS, WINDOWS
    if quick:
        copies, decisions, count = QUICK_COPIES, QUICK_DECISIONS, QUICK_WINDOWS
    record = jax.jit(make_record(env, copies=copies, decisions=decisions))
    episodes = record(agents[0], jax.random.key(0))
    time, copy = np.nonzero(goes_on(episodes, STEPS))
    if not len(time):
        raise UserError(
            f"--run {run_dir}: no episode goes on for {STEPS} steps; allowed: runs of "
            "tasks with longer ones"
        )
    chosen = np.random.default_rng(0).permutation(len(time))[:count]
    at = time[chosen][:, None] + np.arange(STEPS + 1), copy[chosen][:, None]
    found = moments(agents[0], episodes.at(*at), config.discount)
    reward = np.asarray(episodes.reward, np.float64)
    spread = float(np.var(reward))
    if spread == 0:
        raise UserError(f"--run {run_dir}: all rewards of its episodes are the same")
    return {
        "run": "/".join(run_dir.resolve().parts[-2:]),
        "task": env.spec.name,
        "step": step,
        "steps": STEPS,
        "windows": len(chosen),
        "discount": config.discount,
        "reward_variance": spread,
        **found,
        "corollary_2": [
            regime(name, found[key], spread * found["gain"], baseline)
            for baseline, key in (("none", "clean"), ("critic", "clean_critic"))
            for name in MODELS
        ],
        "noise_over_clean": {
            f"{size:g}": size * spread * found["gain"] / found["clean_critic"]
            for size in COSTS_OF_NOISE
        },
    }


def moments(agent: Agent, windows: Episodes, discount: float) -> dict[str, float]:
    """V₀ without and with the critic, and M in both forms; windows come first."""
    rows = jax.device_get(_moments(agent, windows, discount))
    estimate, with_critic, squares, sums = (np.asarray(x, np.float64) for x in rows)
    steps = squares.shape[1]
    powers = discount ** (2.0 * np.arange(steps))
    return {
        "clean": _variance(estimate),
        "clean_critic": _variance(with_critic),
        "gain": rn.noise_gain(squares.mean(0), discount=discount),
        "gain_direct": float(sums.mean(0) @ powers),
        "gain_error": float(np.std(sums @ powers) / np.sqrt(len(sums))),
        "bound": rn.theorem_2_bound(
            float(squares.max(1).mean()),
            noise_variance=1.0,
            horizon=steps,
            discount=discount,
            rollouts=1,
        ),
    }


def _variance(rows: Float[np.ndarray, "windows n"]) -> float:
    """Tr Cov, unbiased."""
    return float(np.sum(np.var(rows, axis=0, ddof=1)))


@eqx.filter_jit
def _moments(agent: Agent, windows: Episodes, discount: float) -> tuple[Array, ...]:
    flat, restore = ravel_pytree(agent.policy)

    def one(window: Episodes) -> tuple[Array, ...]:
        features = window.latent.features[:-1]
        dist = agent.policy(features)
        # The sample itself; the episode has it clipped.
        action = dist.at(window.noise[:-1])

        def log_prob(flat: Array) -> Array:
            return restore(flat)(features).log_prob(action)

        scores = jax.jacrev(log_prob)(flat)
        steps = len(scores)
        weight = discount ** jnp.arange(steps)
        earned = weight * window.reward[1:]
        value = window.heads.value
        to_go = jnp.cumsum(earned[::-1])[::-1]
        advantage = to_go + discount**steps * value[-1] - weight * value[:-1]
        sums = jnp.cumsum(scores, axis=0)
        square = lambda x: jnp.sum(jnp.square(x), axis=-1)
        return to_go @ scores, advantage @ scores, square(scores), square(sums)

    return jax.lax.map(one, windows)


def regime(name: str, clean: float, gain: float, baseline: str) -> dict[str, Any]:
    """What the printed and the whole objective choose for a noise model."""
    model, row = MODELS[name], {"model": name, "baseline": baseline}
    variances = {}
    for objective in ("noise_only", "total"):
        best = optimum(model, objective, clean, gain)
        row[objective] = best.kind
        cost = np.array(best.costs[-1:])
        variances[objective] = float(total_variance(model, cost, clean, gain)[0])
    agrees = row["noise_only"] in (row["total"], "flat")
    more = variances["noise_only"] / variances["total"]
    return row | {"agrees": agrees, "variance_ratio": more}


def table(found: dict[str, Any]) -> str:
    """The numbers and choices as text."""
    ratio = found["gain_direct"] / found["gain"]
    noise = ", ".join(
        f"{size}: {over:.2g}" for size, over in found["noise_over_clean"].items()
    )
    lines = [
        f"A trained agent: {found['run']} ({found['task']}), {found['windows']} "
        f"windows of {found['steps']} steps",
        f"  V₀ {found['clean']:.3g}, with the critic as a baseline "
        f"{found['clean_critic']:.3g}; M {found['gain']:.3g}",
        f"  (scores taken as correlated: {ratio:.2f} of it ± "
        f"{found['gain_error'] / found['gain']:.2f}; the paper's bound "
        f"{found['bound'] / found['gain']:.0f}×)",
        "  σ²M/V₀ with the critic, by the noise's variance over that of rewards:",
        f"    {noise}",
        text_table(
            ["noise", "baseline", "printed", "total", "variance, printed/best"],
            [
                [row["model"], row["baseline"], row["noise_only"], row["total"]]
                + [f"{row['variance_ratio']:.2f}"]
                for row in found["corollary_2"]
            ],
            left=4,
        ),
    ]
    return "\n".join(lines)
