"""Lemma 1, its finite-horizon form, Proposition 1, and the Lipschitz estimates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.theory.bound import configurations as bound_configurations
from benchmarks.theory.bound.study import tightness
from core.smoothness import spectral_norm
from core.theory import lipschitz
from core.theory.bounds import (
    LipschitzConstants,
    curvature,
    curvature_bound,
    dynamics_coefficient,
    horizon_bound,
    simulation_bound,
)

JOINT = LipschitzConstants.joint


def tight_rollouts(constants, dynamics_error, reward_error, steps):
    """States and rewards where Lemma 1's proof loses nothing: f = L_f (s + a), ….

    All constant errors point in the direction in which everything grows, from s = 0.
    """
    f = constants.dynamics_state + constants.dynamics_action * constants.policy
    states, imagined = np.zeros(steps + 1), np.zeros(steps + 1)
    for t in range(steps):
        states[t + 1] = f * states[t]
        imagined[t + 1] = f * imagined[t] + dynamics_error
    r = constants.reward_state + constants.reward_action * constants.policy
    return states, imagined, r * states, r * imagined + reward_error


@pytest.mark.parametrize(
    ("constants", "discount"),
    [
        (JOINT(dynamics=0.4, reward=2.0, policy=0.5), 0.9),
        (JOINT(dynamics=0.72, reward=0.3, policy=0.7), 0.8),  # c = 1.224, γc = 0.979
        (LipschitzConstants(0.5, 0.2, 1.0, 3.0, 0.8), 0.95),
    ],
)
def test_lemma_1_is_attained(constants, discount):
    # The tail is (γc)^t: cut where float64 no longer sees it, before c^t overflows.
    _, _, r, r_hat = tight_rollouts(constants, 0.3, 0.1, 1500)
    weights = discount ** np.arange(1501)
    gap = abs(np.sum(weights[:-1] * (r - r_hat)[:-1]))
    bound = simulation_bound(
        constants, discount=discount, dynamics_error=0.3, reward_error=0.1
    )
    assert gap / bound == pytest.approx(1.0, abs=1e-9)


@pytest.mark.long
def test_lemma_1_on_300_configurations():
    """R ≤ 1, and the split constants are tighter; the LQG half has a bounded domain."""
    rows = bound_configurations.synthetic_configurations(draws=2)
    rows += bound_configurations.lqg_configurations(draws=6)
    assert len(rows) == 300
    joint = np.array([tightness(row, form="joint") for row in rows])
    split = np.array([tightness(row, form="split") for row in rows])
    assert np.all(split <= 1 + 1e-9) and np.all(joint <= split * (1 + 1e-12))
    assert np.median(split) > 1.2 * np.median(joint)
    assert np.all(joint[:50:2] > 1 - 1e-9)  # the aligned family, errors of one sign
    assert np.all((joint[1:50:2] < 1) & (joint > 0)[1:50:2])


@pytest.mark.parametrize("contraction", [1.26, 1.0, 0.84])
def test_finite_horizon_is_attained(contraction):
    """With a critic that errs the same way; c above 1 is no obstacle."""
    policy, steps, discount, slope = 0.5, 15, 0.97, 0.7
    constants = JOINT(dynamics=contraction / 1.5, reward=2.0, policy=policy)
    assert constants.contraction == pytest.approx(contraction)
    states, imagined, r, r_hat = tight_rollouts(constants, 0.3, 0.1, steps)
    weights = discount ** np.arange(steps + 1)
    critic = slope * imagined[-1] + 0.2
    gap = np.sum(weights[:-1] * (r_hat - r)[:-1])
    gap += weights[-1] * (critic - slope * states[-1])
    bound = horizon_bound(
        constants,
        discount=discount,
        horizon=steps,
        dynamics_error=0.3,
        reward_error=0.1,
        critic_error=0.2,
        critic_slope=slope,
    )
    assert gap / bound == pytest.approx(1.0, abs=1e-12)

    # The closed form: with G(q) = (1 - q^H) / (1 - q), or its limit at c = 1.
    def g(q):
        return (1 - q**steps) / (1 - q)

    t, c = np.arange(steps), contraction
    if c == 1.0:
        rewards, states_ = np.sum(t * discount**t), steps
    else:
        rewards = (g(discount * c) - g(discount)) / (c - 1)
        states_ = (c**steps - 1) / (c - 1)
    closed = 0.1 * g(discount) + constants.reward_slope * 0.3 * rewards
    closed += discount**steps * (0.2 + slope * 0.3 * states_)
    assert bound == pytest.approx(closed, rel=1e-12)


def test_finite_horizon_is_continuous_at_one_and_goes_to_lemma_1():
    numbers = {"discount": 0.9, "dynamics_error": 0.3, "reward_error": 0.1}

    def at(c, horizon):
        constants = JOINT(dynamics=c / 2, reward=1.0, policy=1.0)
        return horizon_bound(constants, horizon=horizon, critic_slope=1.0, **numbers)

    assert at(1 + 1e-13, 20) == pytest.approx(at(1.0, 20), rel=1e-11)
    constants = JOINT(dynamics=0.45, reward=1.0, policy=1.0)
    limit = simulation_bound(constants, **numbers)
    assert at(0.9, 400) == pytest.approx(limit, rel=1e-12)
    assert at(0.9, 10) < limit


def test_corollary_1():
    """The coefficient never falls when a constant rises: 20000 random pairs."""
    rng = np.random.default_rng(0)
    tried = 0
    while tried < 20_000:
        low = rng.exponential(0.3, 5)
        high = low + rng.exponential(0.1, 5) * (rng.random(5) < 0.5)
        discount = rng.uniform(0.1, 0.99)
        a, b = LipschitzConstants(*low), LipschitzConstants(*high)
        if discount * b.contraction < 1:
            tried += 1
            assert dynamics_coefficient(a, discount=discount) <= dynamics_coefficient(
                b, discount=discount
            )


def test_curvature_bound_is_attained():
    """g(z) = M z with M = cos θ Rot(θ) - I has ‖M‖ = sin θ, and steps turn by θ."""
    with jax.enable_x64(True):
        for slope in (0.1, 0.5, 0.9):
            cos = (1 - slope**2) ** 0.5
            turn = cos * jnp.array([[cos, -slope], [slope, cos]])
            velocity_map = turn - jnp.eye(2)
            norm = jnp.linalg.norm(velocity_map, ord=2)
            np.testing.assert_allclose(norm, slope, rtol=1e-12)
            states = [jnp.array([1.0, 0.3])]
            for _ in range(6):
                states.append(states[-1] + velocity_map @ states[-1])
            loss, ratio = curvature(jnp.stack(states))
            sharp = curvature_bound(slope, form="sharp")
            np.testing.assert_allclose(loss, sharp, rtol=1e-9)
            np.testing.assert_allclose(ratio, slope, rtol=1e-9)
            assert sharp < curvature_bound(slope, form="printed")
        # At L = 0.9 the printed bound exceeds what any angle has.
        assert round(float(curvature_bound(0.9, form="printed")), 2) == 4.05
        assert round(float(curvature_bound(0.9, form="sharp")), 3) == 0.564


def test_curvature_of_random_rollouts_is_within_each_steps_bound(getkey):
    with jax.enable_x64(True):
        steps = jax.random.normal(getkey(), (40, 500, 3))
        drift = jnp.array([1.0, 0.0, 0.0])
        states = steps * jnp.linspace(0, 2, 500)[None, :, None]
        states = jnp.cumsum(states + drift[None, None], axis=0)
        loss, ratio = curvature(states)
        assert loss.shape == ratio.shape == (38, 500)
        bound = curvature_bound(ratio, form="sharp")
        assert np.all(loss <= bound + 1e-12) and np.any(loss > 0.9 * bound)
        assert np.mean(ratio < 1) > 0.2 and np.mean(ratio >= 1) > 0.2
        assert np.all(bound[ratio >= 1] == 2)
        np.testing.assert_allclose(loss[:, 0], 0, atol=1e-15)  # moves on a line


def test_curvature_leaves_out_steps_at_rest():
    states = jnp.array([[0.0], [1.0], [1.0], [2.0], [3.0]])
    loss, _ = curvature(states)
    assert np.isnan(loss).tolist() == [True, True, False]
    with pytest.raises(ValueError, match=r"states: got 2, .* at least 3"):
        curvature(states[:2])


def test_lipschitz_estimates_are_on_their_sides(getkey):
    with jax.enable_x64(True):
        a = jax.random.normal(getkey(), (7, 20))
        b = jax.random.normal(getkey(), (5, 7))
        f = lambda x: b @ jnp.tanh(a @ x)
        x = 0.1 * jax.random.normal(getkey(), (20,))
        exact = jnp.linalg.norm(jax.jacobian(f)(x), ord=2)
        found = [
            float(spectral_norm(f, x, key=jax.random.key(1), **options).norm)
            for options in (
                {"max_iterations": 1},
                {"max_iterations": 15},
                {"max_iterations": 300, "tolerance": 1e-12},
            )
        ]
        assert found == sorted(found) and found[0] < exact * (1 - 1e-6)
        assert found[1] > 0.9 * exact and found[1] <= exact * (1 + 1e-12)
        np.testing.assert_allclose(found[2], exact, rtol=1e-9)
        upper = lipschitz.layers_upper_bound([a, b])
        np.testing.assert_allclose(
            upper, jnp.linalg.norm(a, ord=2) * jnp.linalg.norm(b, ord=2)
        )
        p, q = jax.random.normal(getkey(), (2, 200, 20))
        pairs = lipschitz.pairs_lower_bound(f, p, q)
        assert 0 < pairs < upper and exact < upper
        linear = lipschitz.pairs_lower_bound(lambda x: 3 * x, p, q.at[0].set(p[0]))
        np.testing.assert_allclose(linear, 3, rtol=1e-12)
        one = lipschitz.layers_upper_bound([a, b], activation_slope=1.1)
        np.testing.assert_allclose(one, 1.1 * upper)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"constants": JOINT(dynamics=0.6, reward=1.0, policy=1.0)}, "use horizon_"),
        ({"discount": 1.0}, "discount=1 must be"),
        ({"dynamics_error": -0.1}, r"dynamics_error=-0\.1"),
        ({"constants": JOINT(dynamics=-1.0, reward=1.0, policy=1.0)}, "dynamics_state"),
    ],
)
def test_bounds_refuse(arguments, message):
    numbers = {
        "constants": JOINT(dynamics=0.1, reward=1.0, policy=1.0),
        "discount": 0.9,
        "dynamics_error": 0.1,
        "reward_error": 0.1,
    }
    numbers |= arguments
    with pytest.raises(ValueError, match=message):
        simulation_bound(numbers.pop("constants"), **numbers)


def test_estimates_refuse():
    with pytest.raises(ValueError, match="no layer"):
        lipschitz.layers_upper_bound([])
