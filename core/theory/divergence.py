"""Divergence of a rollout after an initial-state error (Thm. 4.1, C.1; Cor. 4.2).

From *Towards Unraveling and Improving Generalization in World Models*. A rollout
dh = f(h, z, π(h, z)) dt, dz = p(h) dt + p̄(h) dB starts from (h_0, z_0 + ε).

Theorem 4.1 bounds the *squared* distance d = E sup_t ‖x^ε − x⁰‖² by
δ C (J_0 + J_1) + δ² C (e^{H_0 (J_0+J_1)} + e^{H_1 (J_0+J_1)}) with δ = E‖ε‖ and an
unspecified C. It has three errors: d scales as E‖ε‖², so the first term has the wrong
order; δ does not control E‖ε‖², so rare large errors violate it for any C; and the
second derivatives through a state-dependent policy are incomplete.
`divergence_bound` has the right order and explicit constants.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from core.theory.flow import growth_rate, trajectory
from core.theory.perturbation import Estimate, Noise, Step, estimate
from core.theory.sde import EulerMaruyama

Policy = Callable[[Array, Array], Array]


class LatentRollout(NamedTuple):
    """The sequence model and transition predictor of eq. (19).

    Attributes:
        sequence: f(h, z, a), same shape as h.
        predictor: p(h), same shape as z.
        predictor_noise: p̄(h), shape (size of z, m).
        policy: π(h, z), an action vector; see `local_policy`.
        hidden: size of h; the state is x = (h, z).
        dt: time step.
    """

    sequence: Callable[[Array, Array, Array], Array]
    predictor: Callable[[Array], Array]
    predictor_noise: Callable[[Array], Array]
    policy: Policy
    hidden: int
    dt: float

    def system(self) -> EulerMaruyama:
        """The rollout as one SDE in x = (h, z)."""
        size = self.hidden

        def drift(x: Array) -> Array:
            h, z = x[:size], x[size:]
            moved = self.sequence(h, z, self.policy(h, z))
            return jnp.concatenate([moved, self.predictor(h)])

        def diffusion(x: Array) -> Array:
            noise = self.predictor_noise(x[:size])
            return jnp.concatenate([jnp.zeros((size, noise.shape[1])), noise])

        return EulerMaruyama(drift, diffusion, self.dt)


def local_policy(
    value: Callable[[Array, Array, Array], Array],
    h: Float[Array, "h"],
    z: Float[Array, "z"],
    action: Float[Array, "a"],
) -> Policy:
    """The greedy policy ρ(h, z) = argmax_a Q(h, z, a) near a known maximizer.

    Two Newton steps from `action`, the maximizer at (h, z). The error is
    O(‖(Δh, Δz)‖⁴), so the value and first two derivatives at (h, z) equal those of the
    implicit function of Appendix C (∂ρ = −Q_aa⁻¹ Q_a(h,z)). Q_aa must be invertible.
    """

    def rho(h: Array, z: Array) -> Array:
        best = action
        for _ in range(2):
            slope = jax.grad(value, argnums=2)(h, z, best)
            best = best - jnp.linalg.solve(jax.hessian(value, 2)(h, z, best), slope)
        return best

    return rho


class SlopeTerms(NamedTuple):
    """The terms of Appendix C.1 without C: E sup_t of squared Frobenius norms.

    `f_h` is that of ∂f/∂h + ∂f/∂a ∂_hρ, etc.; `n_h` and `n_hh` are those of p̄.
    """

    f_h: float
    f_z: float
    p_h: float
    n_h: float
    f_hh: float
    f_hz: float
    f_zh: float
    f_zz: float
    p_hh: float
    n_hh: float

    def jacobian_part(self, constant: float) -> float:
        """J_0 + J_1 = exp(F_h + F_z + P_h) + exp(P̄_h), each with the constant C."""
        drift = constant * (self.f_h + self.f_z + self.p_h)
        return _exp(drift) + _exp(constant * self.n_h)

    def printed_bound(self, delta: float, constant: float) -> float:
        """The right side of (46) for δ = E‖ε‖ and a given C; often infinite."""
        j = self.jacobian_part(constant)
        h0 = constant * (self.f_hh + self.f_hz + self.f_zh + self.f_zz + self.p_hh)
        h1 = constant * self.n_hh
        curved = _exp(h0 * j) + _exp(h1 * j)
        return constant * (delta * j + delta**2 * curved)


def slope_terms(
    rollout: LatentRollout,
    states: Float[Array, "paths time n"],
    *,
    printed: bool = False,
) -> SlopeTerms:
    """F_h … P̄_hh along given states, including the policy's derivatives.

    `printed` gives the paper's F_hh, F_hz, F_zh and F_zz, which lack ∂²f/∂a²[∂ρ, ∂ρ]
    and one of the two mixed terms.
    """
    size = rollout.hidden

    def composed(h: Array, z: Array) -> Array:
        return rollout.sequence(h, z, rollout.policy(h, z))

    def second(h: Array, z: Array, i: int, j: int) -> Array:
        """∂²f in arguments i and j (0 is h, 1 is z), axes (f, i, j)."""
        if not printed:
            return jax.jacfwd(jax.jacfwd(composed, i), j)(h, z)
        a = rollout.policy(h, z)
        f, rho = rollout.sequence, rollout.policy
        pure = jax.jacfwd(jax.jacfwd(f, i), j)(h, z, a)
        # The paper's single mixed term: (z, a) with ∂_hρ in F_hz, (h, a) with ∂_zρ in
        # F_zh.
        through, with_a = (i, j) if i != j else (j, i)
        mixed = jax.jacfwd(jax.jacfwd(f, with_a), 2)(h, z, a)
        mixed = jnp.einsum("fxa,ay->fyx", mixed, jax.jacfwd(rho, through)(h, z))
        bent = jnp.einsum(
            "fa,aij->fij",
            jax.jacfwd(f, 2)(h, z, a),
            jax.jacfwd(jax.jacfwd(rho, i), j)(h, z),
        )
        return pure + mixed + bent

    def at(x: Array) -> Array:
        h, z = x[:size], x[size:]
        p, noise = rollout.predictor, rollout.predictor_noise
        parts = (
            jax.jacfwd(composed, 0)(h, z),
            jax.jacfwd(composed, 1)(h, z),
            jax.jacfwd(p)(h),
            jax.jacfwd(noise)(h),
            second(h, z, 0, 0),
            second(h, z, 0, 1),
            second(h, z, 1, 0),
            second(h, z, 1, 1),
            jax.jacfwd(jax.jacfwd(p))(h),
            jax.jacfwd(jax.jacfwd(noise))(h),
        )
        return jnp.stack([jnp.sum(part**2) for part in parts])

    found = jax.jit(jax.vmap(jax.vmap(at)))(states)
    return SlopeTerms(*np.asarray(jnp.mean(jnp.max(found, axis=1), axis=0)).tolist())


def divergence(
    system: EulerMaruyama,
    x0: Float[Array, "n"],
    errors: Float[Array, "paths n"],
    noise: Float[Array, "paths time m"],
) -> Estimate:
    """d = E sup_t ‖x^ε_t − x⁰_t‖²; both runs of a path share the noise."""

    def one_path(error: Array, rows: Array) -> Array:
        apart = trajectory(system, x0 + error, rows) - trajectory(system, x0, rows)
        return jnp.max(jnp.sum(apart**2, axis=1))

    return estimate(jax.jit(jax.vmap(one_path))(errors, noise))


def divergence_bound(
    system: EulerMaruyama, states: Float[Array, "paths time n"], duration: float
) -> float:
    """A factor b with E sup_t ‖x^ε − x⁰‖² ≤ b·E‖ε‖² and explicit constants.

    With Λ = sup `growth_rate`, ℓ = sup‖J_0‖ and k² = sup Σ‖J_k‖_F² over the states,
    ∫E‖x^ε − x⁰‖² dt ≤ I·E‖ε‖² with I = ((1 + Λ dt)^N − 1)/Λ for N steps of the scheme
    ((e^{ΛT} − 1)/Λ as dt → 0). The Minkowski and Doob inequalities give

        √b = 1 + (ℓ √T + 2 k) √I.

    If the noise does not depend on the state, b is at most (1 + max(Λ, 0) dt)^N. The
    suprema must cover all states between the two paths; suprema over sampled states
    suffice only for a small error.
    """

    def at(x: Array) -> tuple[Array, Array, Array]:
        j0 = jax.jacfwd(system.drift)(x)
        jk = jnp.moveaxis(jax.jacfwd(system.diffusion)(x), 1, 0)
        rate = growth_rate(j0, jk, system.dt)
        return rate, jnp.linalg.norm(j0, 2), jnp.sum(jk**2)

    found = jax.jit(jax.vmap(jax.vmap(at)))(states)
    rate, slope, noise = (float(jnp.max(part)) for part in found)
    steps = duration / system.dt

    def grows(rate: float) -> float:
        """(1 + rate·dt)^N."""
        base = 1 + rate * system.dt
        return _exp(steps * math.log(base)) if base > 0 else 0.0

    grown = duration if rate == 0 else (grows(rate) - 1) / rate
    factor = (
        1 + (slope * math.sqrt(duration) + 2 * math.sqrt(noise)) * grown**0.5
    ) ** 2
    return min(factor, grows(max(rate, 0.0))) if noise == 0 else factor


class ValueExpansion(NamedTuple):
    """Corollary 4.2 per path, for errors s·ε: Q = base + s·first + (s²/2)·second.

    `first` is ∂Q·ε^i ∂_i x; `second` is
    ∂Q·ε^i ε^j ∂²_ij x + (ε^i ∂_i x)ᵀ ∂²Q (ε^j ∂_j x).
    """

    base: Float[Array, "paths"]
    first: Float[Array, "paths"]
    second: Float[Array, "paths"]
    realized: Callable[[float], Float[Array, "paths"]]

    def remainder(self, scale: float) -> Float[Array, "paths"]:
        """Realized minus predicted value for errors multiplied by `scale`."""
        predicted = self.base + scale * self.first + 0.5 * scale**2 * self.second
        return self.realized(scale) - predicted


def value_expansion(
    step_fn: Step,
    value: Callable[[Array], Array],
    x0: Float[Array, "n"],
    errors: Float[Array, "paths n"],
    noise: Noise,
) -> ValueExpansion:
    """Expand Q(x_T, a), for a fixed action, in the initial-state error (Cor. 4.2).

    **Arguments:**

    - `step_fn`: one step of the rollout.
    - `value`: x → Q(x, a), a scalar.
    - `x0`: the initial state without the error.
    - `errors`: ε of each path.
    - `noise`: as for `expansion_terms`.
    """

    def curve(scale: Array, error: Array, rows: Array) -> Array:
        start = x0 + scale * error
        last = jax.lax.scan(lambda x, row: (step_fn(x, row), None), start, rows)[0]
        return value(last)

    def one_path(error: Array, rows: Array) -> tuple[Array, Array, Array]:
        zero, one = jnp.zeros((), x0.dtype), jnp.ones((), x0.dtype)
        slope = lambda s: jax.jvp(lambda r: curve(r, error, rows), (s,), (one,))
        (base, first), (_, second) = jax.jvp(slope, (zero,), (one,))
        return base, first, second

    run = jax.jit(jax.vmap(curve, in_axes=(None, 0, 0)))
    return ValueExpansion(
        *jax.jit(jax.vmap(one_path))(errors, noise),
        realized=lambda scale: run(jnp.asarray(scale, x0.dtype), errors, noise),
    )


def _exp(x: float) -> float:
    """e^x, or infinity on overflow: these bounds may be vacuous."""
    return math.exp(x) if x < 700 else math.inf
