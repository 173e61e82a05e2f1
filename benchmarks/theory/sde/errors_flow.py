"""Errors in the SDE paper about the flow and the divergence: (18), Section 4."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks.theory.sde.errors_expansion import DT, STEPS, Finding
from core.theory.divergence import LatentRollout, divergence, slope_terms
from core.theory.flow import (
    FlowBound,
    constant_flow,
    flow_bound,
    second_variation,
    trajectories,
    trajectory,
)
from core.theory.sde import EulerMaruyama, rademacher_tree


def ito_square() -> list[Finding]:
    """(7) E‖Φ_T‖_F² for a rotating noise: J² = −I, J Jᵀ = I."""
    spin = jnp.array([[0.0, -1.0], [1.0, 0.0]])
    duration = STEPS * DT
    # Φ is a scalar times a rotation by B_T, so its norm does not depend on B_T.
    printed, true = (
        constant_flow(
            jnp.zeros((2, 2)), spin[None], jnp.array([0.3]), duration, printed=wrong
        )
        for wrong in (True, False)
    )
    norms = (float(jnp.sum(printed**2)), float(jnp.sum(true**2)))
    exact = 2 * math.exp(duration)
    return [Finding("7", "E‖Φ_T‖², rotating noise", norms[0], norms[1], exact)]


RARE = (1, 2, 4, 8)
"""Slopes s of the drift on a fraction 1/s² of paths, so that E‖∂g‖² = 1."""


def rare_steepness(steepness: int) -> FlowBound:
    """(18) for dv = k v dt, with k = s (`steepness`) on 1/s² of paths, else 0."""
    system = EulerMaruyama(
        lambda x: jnp.stack([x[1] * x[0], 0.0 * x[1]]),
        lambda x: jnp.zeros((2, 1), x.dtype),
        DT,
    )
    count = max(RARE) ** 2
    rate = jnp.where(jnp.arange(count) < count // steepness**2, steepness, 0)
    start = jnp.stack([jnp.zeros(count), rate.astype(float)], axis=1)
    return flow_bound(system, start, jnp.zeros((count, STEPS, 1)))


def mean_in_exponent() -> list[Finding]:
    """(8) E‖Φ_T‖² for a drift that is rarely steep, against (18) with C = 2."""
    top = max(RARE)
    found = rare_steepness(top)
    exact = 1 + ((top**2 - 1) + (1 + top * DT) ** (2 * STEPS)) / top**2
    label = "E‖Φ_T‖², rarely steep drift (printed: bound, C = 2)"
    return [Finding("8", label, found.printed(2.0), found.realized.mean, exact)]


def second_variation_start() -> list[Finding]:
    """(9) ∂²x_T/∂x_0² of a linear SDE, where it is 0, and of a nonlinear one."""
    linear = EulerMaruyama(lambda x: -x, lambda x: 0.5 * x[:, None], DT)
    bent = EulerMaruyama(jnp.sin, lambda x: jnp.cos(x)[:, None], DT)
    row = rademacher_tree(STEPS, 1, DT)[37]
    start = jnp.array([0.6])
    found = []
    for case, name, system in (("9a", "linear", linear), ("9b", "nonlinear", bent)):
        printed, true = (
            float(second_variation(system, start, row, printed=wrong)[0, 0, 0])
            for wrong in (True, False)
        )
        last = lambda x, system=system: trajectory(system, x, row)[-1, 0]
        exact = float(jax.hessian(last)(start)[0, 0])
        label = f"∂²x_T/∂x_0² of a path, {name} SDE"
        found.append(Finding(case, label, printed, true, exact))
    return found


def example_rollout() -> LatentRollout:
    """A small sequence model with a state-dependent policy."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> Array:
        return jnp.asarray(0.5 * rng.normal(size=shape))

    a, b, c, d = weight(3, 3), weight(3, 2), weight(3, 2), weight(2, 3)
    e, f = weight(2, 3), weight(2, 2)
    return LatentRollout(
        sequence=lambda h, z, u: jnp.tanh(a @ h + b @ z + c @ u) - h,
        predictor=lambda h: jnp.tanh(d @ h),
        predictor_noise=lambda h: jnp.diag(0.3 + 0.1 * jnp.tanh(h[:2])),
        policy=lambda h, z: jnp.tanh(e @ h + f @ z),
        hidden=3,
        dt=DT,
    )


def squared_distance() -> list[Finding]:
    """(10) The order of E sup‖x^ε − x⁰‖² in δ; (14) it depends on more than δ."""
    system = example_rollout().system()
    tree = rademacher_tree(STEPS, 1, DT)[:, :, [0, 0]]
    start = jnp.array([0.3, -0.2, 0.5, 0.1, 0.4])
    unit = jnp.zeros((len(tree), 5)).at[:, 3:].set(jnp.array([0.6, -0.8]))
    small, large = (
        divergence(system, start, scale * unit, tree).mean for scale in (1e-3, 2e-3)
    )
    slope = math.log2(large / small)
    found = [Finding("10", "order of d in δ, small rollout", 1.0, slope, 2.0)]
    # dh = 0, dz = p̄ dB: the error is constant in time, so that d = E‖ε‖² exactly.
    still = LatentRollout(
        sequence=lambda h, z, u: 0 * h,
        predictor=lambda h: jnp.zeros(1, h.dtype),
        predictor_noise=lambda h: jnp.ones((1, 1), h.dtype),
        policy=lambda h, z: z,
        hidden=1,
        dt=DT,
    )
    delta, size = 1.0, len(tree)
    rare = jnp.zeros((size, 2)).at[0, 1].set(delta * size)
    noise = rademacher_tree(STEPS, 1, DT)
    states = trajectories(still.system(), jnp.zeros(2), noise)
    bound = slope_terms(still, states).printed_bound(delta, 1.0)
    distance = divergence(still.system(), jnp.zeros(2), rare, noise).mean
    label = "d of a rare large error (printed: bound, C = 1)"
    found.append(Finding("14", label, bound, distance, delta**2 * size))
    return found


def policy_curvature() -> list[Finding]:
    """(13) F_hh for f = a²/2 + h a and the policy a = h: f(h, ρ(h)) = (3/2) h²."""
    rollout = LatentRollout(
        sequence=lambda h, z, u: 0.5 * u**2 + h * u,
        predictor=lambda h: jnp.zeros(1, h.dtype),
        predictor_noise=lambda h: jnp.zeros((1, 1), h.dtype),
        policy=lambda h, z: h,
        hidden=1,
        dt=DT,
    )
    states = jnp.full((1, 1, 2), 0.3)
    printed = slope_terms(rollout, states, printed=True).f_hh
    true = slope_terms(rollout, states).f_hh
    label = "F_hh, f = a²/2 + h a, policy a = h"
    return [Finding("13", label, printed, true, 9.0)]
