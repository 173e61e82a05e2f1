"""Finite-difference smoothing of tabular transition probabilities (GPLD, section 3.1).

In a finite MDP whose states are embedded in a metric space, P is estimated from
transition counts N by minimizing

    −Σ N(s,a,s') log P(s'|s,a) + λ Σ_a Σ_s Σ_{k ∈ N_ε(s)} ‖(P(·|k,a) − P(·|s,a))/h_ks‖²

(eq. 1; ordered pairs). The paper's N_ε(s) contains s itself, whose term is 0/0; it is
excluded here. With the graph Laplacian L of the weights 1/h², the second sum is
2 Σ_a tr(P_aᵀ L P_a), so the problem is convex in P and has an optimality certificate
(`Fit.gap`). Computed with numpy and scipy in float64.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.sparse import csr_array

Parametrization = Literal["squares", "softmax"]


class EmbeddedMDP(NamedTuple):
    """A finite MDP whose states are embedded as points.

    Attributes:
        embedding: e(s), shape (states, dimensions).
        transition: P(s'|s,a), shape (states, actions, states).
        reward: r(s), independent of the action.
    """

    embedding: Float[np.ndarray, "s d"]
    transition: Float[np.ndarray, "s a t"]
    reward: Float[np.ndarray, " s"]


class Fit(NamedTuple):
    """An estimate of the transition probabilities.

    Attributes:
        transition: the estimate, shape (states, actions, states).
        objective: its objective value, in nats.
        gap: upper bound on the suboptimality of `objective`, in nats: the Frank-Wolfe
            gap Σ_rows max_j <∇, P − e_j> of the convex problem.
        iterations: of conjugate gradients.
    """

    transition: Float[np.ndarray, "s a t"]
    objective: float
    gap: float
    iterations: int


def grid(side: int) -> Float[np.ndarray, "s 2"]:
    """The side² points of a square lattice on [0,1]², corners included."""
    axis = np.linspace(0.0, 1.0, side)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)


def gaussian_kernel(
    mean: Float[np.ndarray, "*batch d"],
    embedding: Float[np.ndarray, "s d"],
    *,
    width: float = 0.12,
) -> Float[np.ndarray, "*batch s"]:
    """Probabilities proportional to exp(−‖e(s') − mean‖²/(2 width²))."""
    squares = np.sum((mean[..., None, :] - embedding) ** 2, axis=-1)
    powers = np.exp(-(squares - squares.min(-1, keepdims=True)) / (2.0 * width**2))
    return powers / powers.sum(-1, keepdims=True)


def push_world(side: int = 8, *, width: float = 0.12) -> EmbeddedMDP:
    """Each action moves by 0.15 along an axis; Gaussian reward near a corner."""
    points = grid(side)
    pushed = points[:, None] + 0.15 * np.eye(2)
    transition = gaussian_kernel(np.clip(pushed, 0.0, 1.0), points, width=width)
    squares = np.sum((points - 0.8) ** 2, axis=1)
    return EmbeddedMDP(points, transition, np.exp(-squares / (2.0 * 0.2**2)))


def swirl_world(side: int = 8, *, width: float = 0.12) -> EmbeddedMDP:
    """One action rotates about the centre, one moves by 0.15; sinusoidal reward."""
    points = grid(side)
    x, y = points.T
    turned = points + 0.3 * np.stack([0.5 - y, x - 0.5], axis=1)
    pushed = points + np.array([0.15, 0.0])
    means = np.clip(np.stack([turned, pushed], axis=1), 0.0, 1.0)
    reward = np.sin(2.0 * np.pi * x) * np.cos(np.pi * y)
    return EmbeddedMDP(points, gaussian_kernel(means, points, width=width), reward)


def graph_laplacian(
    embedding: Float[np.ndarray, "s d"], *, radius: float
) -> Float[np.ndarray, "s s"]:
    """L = D − W with W = 1/‖e(k) − e(s)‖² for neighbours within `radius`.

    Raises `ValueError` if two states coincide (their term in eq. 1 is infinite) or if
    no state has a neighbour.
    """
    squares = np.sum((embedding[:, None] - embedding) ** 2, axis=-1)
    np.fill_diagonal(squares, np.inf)
    if squares.min() == 0.0:
        raise ValueError("embedding: two states lie at one point; merge them")
    weights = np.where(squares <= radius**2, 1.0 / squares, 0.0)
    if not weights.any():
        nearest = float(np.sqrt(squares.min()))
        raise ValueError(
            f"radius={radius}: no state has a neighbour; the nearest two are "
            f"{nearest:.4g} apart"
        )
    return np.diag(weights.sum(axis=1)) - weights


def lattice_laplacian(side: int) -> Float[np.ndarray, "s s"]:
    """The Laplacian of `grid(side)` with up to four nearest neighbours per state."""
    return graph_laplacian(grid(side), radius=1.01 / (side - 1))


def finite_difference(
    transition: Float[np.ndarray, "s a t"], laplacian: Float[np.ndarray, "s s"]
) -> float:
    """Equation (1): 2 Σ_a tr(P_aᵀ L P_a)."""
    return 2.0 * float(np.vdot(transition, _apply(laplacian, transition)))


def sample_counts(
    transition: Float[np.ndarray, "s a t"], number: int, *, rng: np.random.Generator
) -> Float[np.ndarray, "s a t"]:
    """Counts N(s,a,s') of `number` transitions from uniform states and actions."""
    states, actions, _ = transition.shape
    state, action = (
        rng.integers(states, size=number),
        rng.integers(actions, size=number),
    )
    edges = np.cumsum(transition, axis=-1)[state, action]
    # The last edge is 1 up to rounding, so it is not compared.
    arrival = np.sum(edges[:, :-1] < rng.random((number, 1)), axis=1)
    counts = np.zeros(transition.shape)
    np.add.at(counts, (state, action, arrival), 1.0)
    return counts


def maximum_likelihood(
    counts: Float[np.ndarray, "s a t"],
) -> Float[np.ndarray, "s a t"]:
    """N(s,a,·)/N(s,a), the minimizer for λ = 0; uniform where N(s,a) = 0."""
    totals = counts.sum(axis=-1, keepdims=True)
    return np.where(totals > 0, counts / np.maximum(totals, 1.0), 1.0 / len(counts))


def fit(
    counts: Float[np.ndarray, "s a t"],
    laplacian: Float[np.ndarray, "s s"],
    *,
    strength: float = 0.1,
    parametrization: Parametrization = "squares",
    tolerance: float = 1e-3,
    max_iterations: int = 2000,
) -> Fit:
    """Minimize the objective of GPLD section 3.1 (eq. 1) by conjugate gradients.

    Args:
        strength: λ.
        parametrization: `"squares"` sets P = x²/‖x‖² per row, which reaches 0 at a
            finite x. `"softmax"` fits logits; many probabilities are 0 at the minimum,
            so logits diverge slowly and it stops far from the minimum.
        tolerance: stop when all gradient entries (in logits or x) are at most this.
        max_iterations: limit on iterations.

    Compare `gap` with `objective` to judge convergence. Raises `ValueError` for a
    negative or infinite `strength`.
    """
    if not 0.0 <= strength < np.inf:
        raise ValueError(f"strength={strength}: λ must be finite and not negative")
    shape, totals = counts.shape, counts.sum(axis=-1, keepdims=True)
    seen = counts > 0
    edges = csr_array(laplacian)  # sparse: a few entries per row

    def terms(p: np.ndarray) -> tuple[float, np.ndarray]:
        """The objective, and the gradient of its smoothness term in P."""
        smoothed = _apply(edges, p)
        with np.errstate(divide="ignore"):  # a rejected step may have P = 0 where N > 0
            likelihood = float(counts[seen] @ np.log(p[seen]))
        second = 2.0 * strength * float(np.vdot(p, smoothed))
        return second - likelihood, 4.0 * strength * smoothed

    def squares(x: np.ndarray) -> tuple[float, np.ndarray]:
        x = x.reshape(shape)
        norms = np.sum(x**2, axis=-1, keepdims=True)
        p = x**2 / norms
        value, slope = terms(p)
        inner = np.sum(p * slope, axis=-1, keepdims=True) - totals
        gradient = 2.0 * x * (slope - inner) / norms
        gradient[seen] -= 2.0 * counts[seen] / x[seen]
        return value, gradient.ravel()

    def softmax(x: np.ndarray) -> tuple[float, np.ndarray]:
        p = _softmax(x.reshape(shape))
        value, slope = terms(p)
        inner = np.sum(p * slope, axis=-1, keepdims=True) - totals
        return value, (p * (slope - inner) - counts).ravel()

    # One uniform pseudo-count per row, so that no entry starts at 0.
    start = (counts + 1.0 / len(counts)) / (totals + 1.0)
    of_squares = parametrization == "squares"
    # L-BFGS takes as many steps, but scipy's is 30 times slower on a busy machine
    # because of thread synchronization in small products.
    found = minimize(
        squares if of_squares else softmax,
        (np.sqrt(start) if of_squares else np.log(start)).ravel(),
        jac=True,
        method="CG",
        options={"maxiter": max_iterations, "gtol": tolerance},
    )
    x = found.x.reshape(shape)
    p = x**2 / np.sum(x**2, axis=-1, keepdims=True) if of_squares else _softmax(x)
    value, slope = terms(p)
    slope[seen] -= counts[seen] / p[seen]
    gap = np.sum(np.sum(p * slope, axis=-1) - slope.min(axis=-1))
    return Fit(p, value, float(gap), int(found.nit))


def held_out_surprise(
    transition: Float[np.ndarray, "s a t"],
    counts: Float[np.ndarray, "s a t"],
    *,
    unimix: float,
) -> float:
    """Mean −log P of held-out transitions, in nats, with a `unimix` share of uniform.

    Without mixing it is infinite if any held-out transition has probability 0.
    """
    mixed = (1.0 - unimix) * transition + unimix / transition.shape[-1]
    seen = counts > 0
    with np.errstate(divide="ignore"):
        surprise = -np.log(mixed[seen])
    return float(np.vdot(counts[seen], surprise) / counts.sum())


def total_variation(
    estimate: Float[np.ndarray, "s a t"], truth: Float[np.ndarray, "s a t"]
) -> float:
    """½ Σ_s' |P̂ − P|, averaged over states and actions; in [0, 1]."""
    return 0.5 * float(np.abs(estimate - truth).sum(axis=-1).mean())


def shuffled_embedding(mdp: EmbeddedMDP, *, rng: np.random.Generator) -> EmbeddedMDP:
    """The control: the same MDP with permuted state embeddings.

    Dynamics, rewards and data are unchanged; only the neighbourhoods change.
    """
    return mdp._replace(embedding=rng.permutation(mdp.embedding))


def optimal_policy(
    transition: Float[np.ndarray, "s a t"],
    reward: Float[np.ndarray, " s"],
    *,
    discount: float,
) -> Float[np.ndarray, "s a"]:
    """The optimal deterministic policy, by policy iteration, as probabilities."""
    states, actions, _ = transition.shape
    chosen = np.zeros(states, int)
    while True:
        one_hot = np.eye(actions)[chosen]
        value = policy_value(transition, reward, one_hot, discount=discount)
        options = transition @ value
        # Keep the old action on ties, so that policy iteration cannot cycle.
        gain = options.max(axis=1) - options[np.arange(states), chosen]
        better = np.where(gain > 1e-10, options.argmax(axis=1), chosen)
        if np.array_equal(better, chosen):
            return one_hot
        chosen = better


def policy_value(
    transition: Float[np.ndarray, "s a t"],
    reward: Float[np.ndarray, " s"],
    policy: Float[np.ndarray, "s a"],
    *,
    discount: float,
) -> Float[np.ndarray, " s"]:
    """V^π, from (I − γ P_π) V = r."""
    step = np.einsum("sa,sat->st", policy, transition)
    return np.linalg.solve(np.eye(len(step)) - discount * step, reward)


def _apply(laplacian: Any, transition: np.ndarray) -> np.ndarray:
    flat = transition.reshape(len(transition), -1)
    return (laplacian @ flat).reshape(transition.shape)


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
