"""The errors of the SDE paper, each with a system where printed and correct differ.

All means are over exact trees (every path of ±√dt increments), without sampling error.
`exact` is a closed form of the *discrete* system, derived by hand and independent of
the library.
"""

from collections.abc import Callable

from benchmarks.theory.sde import errors_expansion as expansion
from benchmarks.theory.sde import errors_flow as flow
from benchmarks.theory.sde.errors_expansion import Finding

CASES: dict[str, Callable[[], list[Finding]]] = {
    "1": expansion.half_missing,
    "2, 3, 6": expansion.ito_missing,
    "4, 5": expansion.drift_left_out,
    "7": flow.ito_square,
    "8": flow.mean_in_exponent,
    "9": flow.second_variation_start,
    "10, 14": flow.squared_distance,
    "11, 12": expansion.uncarried,
    "13": flow.policy_curvature,
}
"""By the numbers of the errors that each function shows."""

STATEMENTS: dict[int, str] = {
    1: "½ missing before ∇L·∂²x, eq. (10), (14), (33)",
    2: "Itô term −Σ∂g_k η_k missing from ξ, Theorem 3.3",
    3: "2 ∂η_k·y missing from Q, eq. (13)",
    4: "the drift's Jacobian missing from Φ, Theorem 3.3",
    5: "y_dᵀ L″ y_d missing from S̃, eq. (17)",
    6: "a zero-drift error called a regularizer, although P ≠ 0",
    7: "J Jᵀ for J² in eq. (45)",
    8: "the mean inside the exponential, inequality (18)",
    9: "eq. (52) for the second derivative, hence also (56)–(58)",
    10: "a squared distance bounded by O(δ), Theorem 4.1",
    11: "the curvature H_k along ξ instead of Φ ξ, Theorem 3.3",
    12: "the drift's curvature in Q̃, although independent of the drift error",
    13: "∂²f/∂a² and a mixed term missing from F_hh …, Theorem C.1",
    14: "δ = E‖ε‖ in place of (E‖ε‖²)^½, Theorem 4.1",
}
"""The errors; tests/theory/test_theory_sde_errors.py tests them all."""


def findings() -> list[Finding]:
    """All findings, ordered by number."""
    found = [finding for case in CASES.values() for finding in case()]
    return sorted(found, key=lambda finding: (error_of(finding), finding.number))


def error_of(finding: Finding) -> int:
    """The number of the error that a finding shows."""
    return int(finding.number.rstrip("ab"))
