"""Theorem 3.3 and Corollary 3.4 as printed, with a switch for every correction.

The paper obtains the path's derivatives by variation of constants: y_s = Φ ξ with the
flow dΦ = ∂g_k Φ dB^k and ξ = ∫Φ⁻¹ σ̄_k dB^k. Here these integrals are Itô sums over an
Euler–Maruyama path. `PRINTED` gives the paper's six terms and their sum; `CORRECTED`
fixes all errors and agrees with `perturbation.expansion_terms` as dt → 0. Where the
paper is ambiguous (whether an index k includes time), we follow the theorem's
statement, not its appendix.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from core.theory.perturbation import (
    Coefficients,
    Expansion,
    Loss,
    realized_losses,
    spread,
)
from core.theory.sde import EulerMaruyama

HALF_MISSING = Coefficients(q=1.0, q_tilde=1.0)
"""Eqs. (33), (10) and (14): the factor ½ of ∇L·∂²x is missing."""

Map = Callable[[Array], Array]


class Corrections(NamedTuple):
    """Which errors of the printed theorem to correct; numbers as in docs/theory-sde.md.

    Attributes:
        half: (1) the factor ½ of ∇L·∂²x.
        ito: (2) the Itô terms −Σ∂g_k(·)_k dt in ξ and in the integral of Q.
        error_slope: (3) 2 ∂η_k y in Q and Q̃.
        drift_in_flow: (4) the drift's Jacobian in Φ.
        drift_square: (5) y_dᵀ L″ y_d in S̃.
        carried: (11) the second derivative of g_k along y = Φ ξ instead of ξ.
        drift_bias: (12) Q̃ from the drift error; the drift's curvature along y_s moves
            from Q̃ to Q.
    """

    half: bool = False
    ito: bool = False
    error_slope: bool = False
    drift_in_flow: bool = False
    drift_square: bool = False
    carried: bool = False
    drift_bias: bool = False


PRINTED = Corrections()
CORRECTED = Corrections(*(True for _ in Corrections._fields))


def without_half(expansion: Expansion) -> Expansion:
    """The exact terms with the ½ missing: error (1) alone, of slope 2."""
    return dataclasses.replace(expansion, coefficients=HALF_MISSING)


def printed_terms(
    system: EulerMaruyama,
    loss: Loss,
    x0: Float[Array, "*paths n"],
    noise: Float[Array, "paths time m"],
    *,
    corrections: Corrections = PRINTED,
) -> Expansion:
    """The terms (11)–(13) and (15)–(17) of `system`, with the given `corrections`.

    Φ must stay invertible, so `dt` times its rates must be well below 1. `s_tilde` is
    y_sᵀ L″ y_d as printed; with `drift_square` it is y_dᵀ L″ y_d + 2 y_sᵀ L″ y_d with
    coefficient ½.
    """
    right = corrections
    dt, drift, diffusion = system.dt, system.drift, system.diffusion

    def sigma(x: Array) -> Array:
        given = system.drift_error
        return jnp.zeros_like(x) if given is None else given(x)

    def sigma_bar(x: Array) -> Array:
        given = system.diffusion_error
        return jnp.zeros_like(diffusion(x)) if given is None else given(x)

    def slope(function: Map, x: Array, y: Array) -> Array:
        return jax.jvp(function, (x,), (y,))[1]

    def curvature(function: Map, x: Array, y: Array) -> Array:
        return slope(lambda at: slope(function, at, y), x, y)

    def second_source(x: Array, y: Array, eta0: bool) -> tuple[Array, Array]:
        """The source of ∂²x along y, eq. (34): dt part (n,) and dB part (n, m)."""
        in_time = curvature(drift, x, y)
        in_noise = curvature(diffusion, x, y)
        if right.error_slope:
            in_noise = in_noise + 2 * slope(sigma_bar, x, y)
            if eta0:
                in_time = in_time + 2 * slope(sigma, x, y)
        return in_time, in_noise

    def one_path(start: Array, rows: Array) -> tuple[Array, ...]:
        n = start.shape[0]

        def advance(carry: tuple[Array, ...], row: Array):
            x, flow, xi, xi_tilde, q, q_tilde = carry
            along_drift = jax.jacfwd(drift)(x)
            along_noise = jax.jacfwd(diffusion)(x)  # n, m, n

            inverse = jnp.linalg.inv(flow)

            def back(in_time: Array, in_noise: Array) -> Array:
                """Φ⁻¹ (in_time dt + in_noise dB), with the Itô term if corrected."""
                if right.ito:
                    in_time = in_time - jnp.einsum("nmk,km->n", along_noise, in_noise)
                return inverse @ (in_time * dt + in_noise @ row)

            nothing = jnp.zeros_like(x)
            y_s, y_d = xi, xi_tilde
            if right.carried:
                y_s, y_d = flow @ xi, flow @ xi_tilde
            in_time, in_noise = second_source(x, y_s, False)
            # Q is for a zero drift error, so ∂σ does not act on y_s here.
            new_q = q + back(in_time if right.drift_bias else nothing, in_noise)
            if right.drift_bias:
                whole = second_source(x, y_s + y_d, True)
                rest = (whole[0] - in_time, whole[1] - in_noise)
                new_q_tilde = q_tilde + back(*rest)
            else:
                new_q_tilde = q_tilde + back(in_time, jnp.zeros_like(in_noise))
            grown = jnp.einsum("nmk,m->nk", along_noise, row)
            if right.drift_in_flow:
                grown = grown + along_drift * dt
            new = (
                system.step(x, row),
                flow + grown @ flow,
                xi + back(nothing, sigma_bar(x)),
                xi_tilde + inverse @ sigma(x) * dt,
                new_q,
                new_q_tilde,
            )
            return new, None

        zeros = jnp.zeros((4, n), start.dtype)
        begin = (start, jnp.eye(n, dtype=start.dtype), *zeros)
        (x, flow, *integrals), _ = jax.lax.scan(advance, begin, rows)
        y_s, y_d, z_ss, z_rest = (flow @ integral for integral in integrals)
        gradient = jax.grad(loss)
        bent_s = slope(gradient, x, y_s)
        s_tilde = bent_s @ y_d
        if right.drift_square:
            s_tilde = 2 * s_tilde + y_d @ slope(gradient, x, y_d)
        ups = gradient(x)
        return (
            loss(x),
            ups @ y_s,
            ups @ y_d,
            ups @ z_ss,
            bent_s @ y_s,
            ups @ z_rest,
            s_tilde,
        )

    values = jax.jit(jax.vmap(one_path))(spread(x0, noise), noise)
    coefficients = Coefficients() if right.half else HALF_MISSING
    if not right.drift_square:
        coefficients = coefficients._replace(s_tilde=1.0)
    run = realized_losses(system.step, loss, x0, noise, **system.increments())
    return Expansion(*values, realized=run, coefficients=coefficients)
