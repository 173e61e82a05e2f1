"""Errors in the SDE paper's expansion: Theorem 3.3, Corollary 3.4."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from core.theory.perturbation_printed import (
    CORRECTED,
    PRINTED,
    Corrections,
    printed_terms,
    without_half,
)
from core.theory.sde import EulerMaruyama, rademacher_tree

STEPS, DT = 8, 0.125


class Finding(NamedTuple):
    """One error of the paper on one system.

    Attributes:
        number: of the error, as in docs/theory-sde.md, with a letter for its cases.
        quantity: the compared quantity and the system.
        printed: from the paper's formula.
        true: from the library, or by simulation.
        exact: from a closed form, or None.
    """

    number: str
    quantity: str
    printed: float
    true: float
    exact: float | None


def _square(x: Array) -> Array:
    return x[0] ** 2


def _first(x: Array) -> Array:
    return x[0]


def _column(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """A scalar diffusion as a matrix (1, 1)."""
    return lambda x: function(x)[:, None]


def _gbm(scale: float) -> EulerMaruyama:
    """dx = (scale + ε) x dB: base and error share one Brownian motion."""
    return EulerMaruyama(
        jnp.zeros_like,
        _column(lambda x: scale * x),
        DT,
        diffusion_error=_column(lambda x: x),
    )


def _ou(rate: float, drift_error: float, diffusion_error: float) -> EulerMaruyama:
    """dx = (−rate x + ε drift_error) dt + (½ + ε diffusion_error) dB."""
    return EulerMaruyama(
        lambda x: -rate * x,
        lambda x: jnp.full((1, 1), 0.5, x.dtype),
        DT,
        lambda x: jnp.full_like(x, drift_error),
        lambda x: jnp.full((1, 1), diffusion_error, x.dtype),
    )


def half_missing() -> list[Finding]:
    """(1) The slope of the remainder with exact terms except for the missing ½."""
    system = EulerMaruyama(
        lambda x: jnp.sin(x), _column(lambda x: jnp.cos(x)), DT, None, _column(jnp.sin)
    )
    exact = system.expand(_first, jnp.array([0.6]), rademacher_tree(STEPS, 1, DT))
    grid = [1e-3, 2e-3]
    paper, true = (float(e.check(grid).slopes[0]) for e in (without_half(exact), exact))
    return [Finding("1", "slope of the remainder, nonlinear SDE", paper, true, None)]


def ito_missing() -> list[Finding]:
    """(2) P of geometric Brownian motion; (6) P ≠ 0; (3) Q ≠ 0."""
    tree, start = rademacher_tree(STEPS, 1, DT), jnp.ones(1)
    scale = 0.44
    system, n = _gbm(scale), STEPS
    found = []
    growth = 1 + scale**2 * DT
    for case, loss, name, exact in (
        ("2a", _square, "x²", 2 * n * scale * DT * growth ** (n - 1)),
        ("2b", _first, "x", 0.0),
    ):
        truth = system.expand(loss, start, tree)
        paper = printed_terms(system, loss, start, tree)
        p, p_printed = truth.terms()["p"].mean, paper.terms()["p"].mean
        found.append(Finding(case, f"P, GBM, L = {name}", p_printed, p, exact))
        if loss is _square:
            # E x(a) x(b) = (1 + a b dt)^N; Q is twice its second derivative in a.
            q = 2 * n * (n - 1) * (scale * DT) ** 2 * growth ** (n - 2)
            terms = (paper.terms()["q"].mean, truth.terms()["q"].mean)
            found.append(Finding("3", "Q, GBM, L = x²", *terms, q))
            # The paper's claim: a convex loss can only increase, by ε² S/2. But −ε is
            # also a zero-drift error, and here the loss decreases.
            eps = -0.1
            fall = (1 + (scale + eps) ** 2 * DT) ** n - growth**n
            terms = (0.5 * eps**2 * truth.terms()["s"].mean, truth.change(eps).mean)
            found.append(Finding("6a", "change of E x², GBM, ε = −0.1", *terms, fall))
    apart = system._replace(
        diffusion=lambda x: jnp.array([[scale, 0.0]]) * x[:, None],
        diffusion_error=lambda x: jnp.array([[0.0, 1.0]]) * x[:, None],
    )
    wide = rademacher_tree(STEPS, 2, DT)
    p = apart.expand(_square, start, wide).terms()["p"].mean
    p_printed = printed_terms(apart, _square, start, wide).terms()["p"].mean
    found.append(
        Finding("6b", "P, GBM, error on an independent noise", p_printed, p, 0.0)
    )
    return found


def drift_left_out() -> list[Finding]:
    """(4) S with Φ without the drift; (5) S̃ without y_dᵀ L″ y_d."""
    tree, start, rate = rademacher_tree(STEPS, 1, DT), jnp.ones(1), 1.0
    decay = (1 - rate * DT) ** np.arange(STEPS)
    noisy, drifting = _ou(rate, 0.0, 1.0), _ou(rate, 0.7, 0.0)
    found = []
    for number, name, system, exact in (
        ("4", "s", noisy, 2 * DT * np.sum(decay**2)),
        ("5", "s_tilde", drifting, 2 * (0.7 * DT * np.sum(decay)) ** 2),
    ):
        # (5) uses the corrected Φ, so that nothing else differs.
        corrections = (
            PRINTED if number == "4" else CORRECTED._replace(drift_square=False)
        )
        paper = printed_terms(system, _square, start, tree, corrections=corrections)
        truth = system.expand(_square, start, tree)
        label = f"{'S' if number == '4' else 'S̃'}, Ornstein–Uhlenbeck, L = x²"
        found.append(
            Finding(
                number,
                label,
                paper.terms()[name].mean,
                truth.terms()[name].mean,
                float(exact),
            )
        )
    return found


def uncarried() -> list[Finding]:
    """(11) Q̃'s curvature along ξ instead of Φ ξ; (12) the drift's curvature in R."""
    rate, bend = -1.0, 0.8
    system = EulerMaruyama(
        lambda x: rate * x + 0.5 * bend * x**2,
        lambda x: jnp.zeros((1, 1), x.dtype),
        DT,
        diffusion_error=lambda x: jnp.ones((1, 1), x.dtype),
    )
    start, tree = jnp.zeros(1), rademacher_tree(STEPS, 1, DT)
    truth = system.expand(_first, start, tree).terms()["q"].mean

    def q(corrections: Corrections) -> float:
        paper = printed_terms(system, _first, start, tree, corrections=corrections)
        return paper.terms()["q"].mean

    factor = 1 + rate * DT
    variance, exact = 0.0, 0.0
    for _ in range(STEPS):
        exact = factor * exact + bend * variance * DT
        variance = factor**2 * variance + DT
    # All corrections but `carried`; Φ is one Itô step earlier than in the exact sum.
    alone = q(CORRECTED._replace(carried=False))
    label = "E ∂²x, curved drift, error σ̄ = 1"
    return [
        Finding("11", label + " (only this error)", alone, truth, exact),
        Finding("12", label + " (Theorem 3.3: R)", q(PRINTED), truth, exact),
    ]
