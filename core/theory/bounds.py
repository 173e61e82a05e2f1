"""Bounds on the return error of imagined rollouts ("On Training in Imagination").

Notation: dynamics f, reward r and policy π are deterministic; a model (f̂, r̂) has
errors ε_f = sup ‖f̂ - f‖ and ε_r = sup |r̂ - r|; J is the true and Ĵ the imagined
discounted return of the same policy from the same state. The bounds on returns are
float64 arithmetic on Python numbers; only the curvature functions use JAX arrays.
"""

from typing import Literal, NamedTuple, Self

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class LipschitzConstants(NamedTuple):
    """Lipschitz constants of dynamics, reward and policy, per argument.

    ‖f(s, a) - f(s', a')‖ ≤ dynamics_state ‖s - s'‖ + dynamics_action ‖a - a'‖;
    likewise for the reward. The paper uses one constant for both arguments (`joint`).
    Separate constants give a bound at most as large, with the same proof.
    """

    dynamics_state: float
    dynamics_action: float
    reward_state: float
    reward_action: float
    policy: float

    @classmethod
    def joint(cls, *, dynamics: float, reward: float, policy: float) -> Self:
        """The paper's L_f, L_r and L_π: one constant for state and action."""
        return cls(dynamics, dynamics, reward, reward, policy)

    def joined(self) -> "LipschitzConstants":
        """The smallest joint constants (the paper's form) implied by these."""
        return LipschitzConstants.joint(
            dynamics=max(self.dynamics_state, self.dynamics_action),
            reward=max(self.reward_state, self.reward_action),
            policy=self.policy,
        )

    @property
    def contraction(self) -> float:
        """c, the growth factor of a state error per step: L_f (1 + L_π)."""
        return self.dynamics_state + self.dynamics_action * self.policy

    @property
    def reward_slope(self) -> float:
        """Lipschitz constant of s ↦ r(s, π(s)): L_r (1 + L_π) in the paper."""
        return self.reward_state + self.reward_action * self.policy


def dynamics_coefficient(constants: LipschitzConstants, *, discount: float) -> float:
    """The coefficient of ε_f in Lemma 1: γ L_r (1 + L_π) / ((1 - γ)(1 - γ c)).

    It is non-decreasing in each constant (Corollary 1).

    Raises:
        ValueError: the discount is not in [0, 1), a constant is negative, or
            γ c is not below 1.
    """
    return dynamics_multiplier(constants, discount=discount) / (1 - discount)


def dynamics_multiplier(constants: LipschitzConstants, *, discount: float) -> float:
    """κ = γ L_r (1 + L_π) / (1 - γ c): the weight of ε_f relative to ε_r in Lemma 1.

    Raises:
        ValueError: as `dynamics_coefficient`.
    """
    _check(constants, discount=discount, highest_discount="below 1")
    contraction = discount * constants.contraction
    if contraction >= 1:
        raise ValueError(
            f"constants: discount · contraction is {contraction:g}, but Lemma 1 needs "
            "it below 1: use horizon_bound"
        )
    return discount * constants.reward_slope / (1 - contraction)


def simulation_bound(
    constants: LipschitzConstants,
    *,
    discount: float,
    dynamics_error: float,
    reward_error: float,
) -> float:
    """Lemma 1: |J - Ĵ| ≤ ε_r / (1 - γ) + γ L_r (1 + L_π) ε_f / ((1 - γ)(1 - γ c)).

    The constants are those of the true f and r. The proof needs the errors only on the
    imagined rollout, so their maxima along it may be used as ε_f and ε_r.

    Raises:
        ValueError: as `dynamics_coefficient`, or an error is negative.
    """
    _check_errors(dynamics_error=dynamics_error, reward_error=reward_error)
    coefficient = dynamics_coefficient(constants, discount=discount)
    return reward_error / (1 - discount) + coefficient * dynamics_error


def horizon_bound(
    constants: LipschitzConstants,
    *,
    discount: float,
    horizon: int,
    dynamics_error: float,
    reward_error: float,
    critic_error: float = 0.0,
    critic_slope: float = 0.0,
) -> float:
    """The bound for H-step rollouts bootstrapped with a critic, for any c ≥ 0.

    With V the true value and V̂ the critic, ε_V = sup |V̂ - V| and L_V a Lipschitz
    constant of V,

        |J - (Σ_{t<H} γ^t r̂_t + γ^H V̂(ŝ_H))| ≤ ε_r Σ_{t<H} γ^t
            + L_r (1 + L_π) Σ_{t<H} γ^t Δ_t + γ^H (ε_V + L_V Δ_H),

    where Δ_t = ε_f (c^t - 1) / (c - 1), or t ε_f for c = 1. The sums are evaluated term
    by term, because their closed form suffers from cancellation near c = 1.

    Args:
        constants: of the true dynamics, reward and policy.
        discount: γ in [0, 1].
        horizon: H, at least 0.
        dynamics_error: ε_f.
        reward_error: ε_r.
        critic_error: ε_V.
        critic_slope: L_V.

    Raises:
        ValueError: an argument is negative, or the discount is above 1.
    """
    _check(constants, discount=discount, highest_discount="at most 1")
    _check_errors(
        dynamics_error=dynamics_error,
        reward_error=reward_error,
        critic_error=critic_error,
        critic_slope=critic_slope,
        horizon=horizon,
    )
    bound, weight, deviation = 0.0, 1.0, 0.0
    for _ in range(horizon):
        bound += weight * (reward_error + constants.reward_slope * deviation)
        deviation = constants.contraction * deviation + dynamics_error
        weight *= discount
    return bound + weight * (critic_error + critic_slope * deviation)


class ModelErrors(NamedTuple):
    """ε_f, ε_r, ε_V and L_V of `horizon_bound`."""

    dynamics: float
    reward: float
    critic: float = 0.0
    critic_slope: float = 0.0


class BoundCheck(NamedTuple):
    """A bound beside the return error that was realized.

    Attributes:
        bound: on |gap|; infinite where the statement's condition fails.
        tightness: R = |gap| / bound, 1 if the bound is attained and above 1 if it is
            violated; 1 where both are zero.
        vacuous: the bound is not below the largest error that is possible at all.
    """

    bound: float
    tightness: float
    vacuous: bool


def check_bounds(
    gap: float,
    constants: LipschitzConstants,
    errors: ModelErrors,
    *,
    discount: float,
    horizon: int,
    largest_gap: float,
) -> dict[str, BoundCheck]:
    """The bounds on the error of an H-step return, each beside the realized error.

    Args:
        gap: J - Ĵ, as of `core.theory.attribution.attribute`.
        constants: separate for state and action; "joint" forms use `joined()`.
        largest_gap: the largest |gap| that is possible, such as the range of the
            reward times Σ_{t<H} γ^t: a bound of this size says nothing.

    Returns:
        "horizon, split", "horizon, joint" and, for a return without a critic (ε_V and
        L_V zero), "Lemma 1": infinite if γ c ≥ 1 or γ = 1.

    Raises:
        ValueError: as `horizon_bound`, or `largest_gap` is not positive.
    """
    if not largest_gap > 0:
        raise ValueError(f"largest_gap={largest_gap:g} must be above 0")
    joint = constants.joined()
    bounds = {
        f"horizon, {name}": horizon_bound(
            form,
            discount=discount,
            horizon=horizon,
            dynamics_error=errors.dynamics,
            reward_error=errors.reward,
            critic_error=errors.critic,
            critic_slope=errors.critic_slope,
        )
        for name, form in {"split": constants, "joint": joint}.items()
    }
    if errors.critic == errors.critic_slope == 0:
        holds = discount < 1 and discount * joint.contraction < 1
        bounds["Lemma 1"] = (
            simulation_bound(
                joint,
                discount=discount,
                dynamics_error=errors.dynamics,
                reward_error=errors.reward,
            )
            if holds
            else float("inf")
        )
    return {
        name: BoundCheck(bound, _tightness(abs(gap), bound), bound >= largest_gap)
        for name, bound in bounds.items()
    }


def _tightness(error: float, bound: float) -> float:
    if bound == 0:
        return 1.0 if error == 0 else float("inf")
    return error / bound


def curvature_bound(
    slope: float | Float[Array, "*batch"], *, form: Literal["sharp", "printed"]
) -> Float[Array, "*batch"]:
    """Proposition 1: a bound on 1 - cos between successive velocities of a rollout.

    Args:
        slope: Lipschitz constant L of the velocity map z ↦ F(z) - z, or the measured
            ratio ‖v_{t+1} - v_t‖ / ‖v_t‖ of a step.
        form: "printed" is the paper's L² / (2 (1 - L)); "sharp" is 1 - √(1 - L²),
            which is never larger and is attained.

    Returns:
        The bound on 1 - cos(v_t, v_{t+1}). For L ≥ 1 it is trivial: 2 ("sharp") or
        infinity ("printed").
    """
    slope = jnp.asarray(slope)
    known = slope < 1
    inside = jnp.where(known, slope, 0.0)
    if form == "printed":
        return jnp.where(known, inside**2 / (2 * (1 - inside)), jnp.inf)
    # 1 - √(1 - L²) without its cancellation at small L.
    return jnp.where(known, inside**2 / (1 + jnp.sqrt(1 - inside**2)), 2.0)


def curvature(
    states: Float[Array, "time *batch size"],
) -> tuple[Float[Array, "time_less_2 *batch"], Float[Array, "time_less_2 *batch"]]:
    """The temporal-straightening loss of each step of a rollout (Definition 1).

    Args:
        states: z_0 … z_T, at least three states.

    Returns:
        1 - cos(v_t, v_{t+1}) with v_t = z_{t+1} - z_t, and the ratios
        ρ_t = ‖v_{t+1} - v_t‖ / ‖v_t‖, for which
        `curvature ≤ curvature_bound(ρ, form="sharp")`. NaN where a velocity is zero;
        the paper excludes those steps.

    Raises:
        ValueError: there are fewer than three states.
    """
    if len(states) < 3:
        raise ValueError(
            f"states: got {len(states)}, but two successive steps need at least 3"
        )
    velocity = jnp.diff(states, axis=0)
    length = jnp.linalg.norm(velocity, axis=-1)
    direction = velocity / length[..., None]
    # 1 - <u, u'> = ‖u - u'‖² / 2 for unit vectors, without the cancellation.
    loss = 0.5 * jnp.sum(jnp.diff(direction, axis=0) ** 2, axis=-1)
    ratio = jnp.linalg.norm(jnp.diff(velocity, axis=0), axis=-1) / length[:-1]
    return loss, ratio


def _check(
    constants: LipschitzConstants, *, discount: float, highest_discount: str
) -> None:
    if not 0 <= discount <= 1 or (highest_discount == "below 1" and discount == 1):
        raise ValueError(
            f"discount={discount:g} must be at least 0 and {highest_discount}"
        )
    for name, value in constants._asdict().items():
        if not (value >= 0 and np.isfinite(value)):
            raise ValueError(
                f"constants.{name}={value:g} is not a Lipschitz constant: it must be "
                "finite and at least 0"
            )


def _check_errors(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name}={value:g} must be at least 0")
