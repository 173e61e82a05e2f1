"""The flow, its bound (18), Theorem 4.1 and Corollary 4.2 against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.theory.sde.errors_flow import example_rollout
from core.theory.divergence import (
    LatentRollout,
    divergence,
    divergence_bound,
    local_policy,
    slope_terms,
    value_expansion,
)
from core.theory.flow import (
    constant_flow,
    flow_bound,
    growth_rate,
    second_variation,
    trajectories,
    trajectory,
)
from core.theory.sde import EulerMaruyama, rademacher_tree


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


DT, STEPS = 0.1, 8


def linear(seed: int, size: int = 3, noises: int = 1):
    """dx = A x dt + Σ B_k x dB^k of random A and B_k."""
    rng = np.random.default_rng(seed)
    a = jnp.asarray(rng.normal(size=(size, size)))
    b = jnp.asarray(0.7 * rng.normal(size=(noises, size, size)))
    system = EulerMaruyama(lambda x: a @ x, lambda x: jnp.einsum("kij,j->ik", b, x), DT)
    return a, b, system


@pytest.mark.parametrize("seed", range(3))
def test_growth_rate_bounds_one_step_and_is_attained(seed):
    a, b, _ = linear(seed, noises=2)
    mean = jnp.eye(3) + a * DT
    second = mean.T @ mean + DT * jnp.einsum("kij,kil->jl", b, b)
    worst = jnp.linalg.eigvalsh(second)[-1]  # of E‖step(v)‖² over unit v
    assert 1 + DT * growth_rate(a, b, DT) == pytest.approx(float(worst), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_flow_bound_holds_on_the_whole_tree(seed):
    a, b, system = linear(seed)
    found = flow_bound(system, jnp.ones(3), rademacher_tree(STEPS, 1, DT))
    second = np.eye(3)
    mean = np.eye(3) + DT * np.asarray(a)
    for _ in range(STEPS):  # E ΦᵀΦ, one step further inside at a time
        noise = np.asarray(b[0])
        second = mean.T @ second @ mean + DT * noise.T @ second @ noise
    assert found.realized.mean == pytest.approx(np.trace(second), rel=1e-10)
    assert found.realized.mean <= found.bound
    squares = [float(jnp.sum(a**2)), float(jnp.sum(b**2))]
    np.testing.assert_allclose(found.squares, squares, rtol=1e-12)
    np.testing.assert_allclose(found.largest_squares, squares, rtol=1e-12)


def test_flow_bound_of_a_scalar_is_attained_as_dt_falls():
    system = EulerMaruyama(lambda x: 0.5 * x, lambda x: 0 * x[:, None], 0.001)
    found = flow_bound(system, jnp.ones(1), jnp.zeros((2, 1000, 1)))
    assert found.bound == pytest.approx(np.e, rel=1e-3)
    assert 0.999 < found.realized.mean / found.bound <= 1.0


@pytest.mark.parametrize("kind", ["rotation", "symmetric"])
def test_constant_flow_is_the_limit_of_the_scheme(kind):
    entries = (
        [[0.0, -1.0], [1.0, 0.0]] if kind == "rotation" else [[0.3, 0.4], [0.4, -1]]
    )
    j = jnp.array(entries)
    steps, dt = 4000, 1 / 4000
    rows = np.sqrt(dt) * np.random.default_rng(0).choice([-1.0, 1.0], size=(steps, 1))
    flow = np.eye(2)
    for row in rows:
        flow = flow + row[0] * np.asarray(j) @ flow
    end = jnp.array([rows.sum()])
    true, printed = (
        constant_flow(jnp.zeros((2, 2)), j[None], end, 1.0, printed=wrong)
        for wrong in (False, True)
    )
    np.testing.assert_allclose(true, flow, atol=5e-3)
    # JJᵀ is J² where J is symmetric, and only there.
    assert np.allclose(printed, flow, atol=5e-3) == (kind == "symmetric")


def test_second_variation_is_the_second_derivative_of_the_path():
    system = example_rollout().system()
    rows = rademacher_tree(4, 2, DT)[93]
    start = jnp.array([0.3, -0.2, 0.5, 0.1, 0.4])
    expected = jax.jacfwd(jax.jacfwd(lambda x: trajectory(system, x, rows)[-1]))(start)
    found = second_variation(system, start, rows)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    printed = second_variation(system, start, rows, printed=True)
    assert np.abs(printed - expected).max() > 0.5


def test_local_policy_has_the_derivatives_of_the_maximizer():
    """Q whose maximizer is known: a = sin(h z) + h², with a curvature that moves."""
    best = lambda h, z: jnp.sin(h * z) + h**2

    def value(h, z, a):
        wrong = a - best(h, z)
        return -jnp.sum((1 + h**2) * wrong**2 + wrong**4 + wrong**3)

    h, z = jnp.array([0.4]), jnp.array([-0.7])
    rho = local_policy(value, h, z, best(h, z))
    # Off by the fourth power of the distance: the first two derivatives coincide.
    gaps = [
        abs(float((rho(h + s, z - s) - best(h + s, z - s))[0])) for s in (0.02, 0.04)
    ]
    assert np.log2(gaps[1] / gaps[0]) > 3.8
    assert gaps[1] < 1e-4
    mixed = jax.jacfwd(jax.grad(value, 2), 0)(h, z, best(h, z))
    curved = jax.hessian(value, 2)(h, z, best(h, z))
    slope = -jnp.linalg.solve(curved, mixed)  # Appendix C's formula
    np.testing.assert_allclose(jax.jacfwd(rho, 0)(h, z), slope, atol=1e-12)


def polynomial() -> LatentRollout:
    """f = h z + a²/2 + h² with a = h + 2z; p = h²; p̄ = 3h."""
    return LatentRollout(
        sequence=lambda h, z, a: h * z + 0.5 * a**2 + h**2,
        predictor=lambda h: h**2,
        predictor_noise=lambda h: 3 * h[:, None],
        policy=lambda h, z: h + 2 * z,
        hidden=1,
        dt=DT,
    )


def test_slope_terms_by_hand():
    h, z = 0.5, -1.0
    states = jnp.array([[[h, z], [0.0, 0.0]]])
    a = h + 2 * z
    found = slope_terms(polynomial(), states)
    # f(h, z, π) = h z + (h + 2z)²/2 + h²
    assert found.f_h == pytest.approx((z + a + 2 * h) ** 2)
    assert found.f_z == pytest.approx((h + 2 * a) ** 2)
    assert found.p_h == pytest.approx((2 * h) ** 2)
    assert found.n_h == pytest.approx(9.0)
    assert (found.f_hh, found.f_zz) == (pytest.approx(9.0), pytest.approx(16.0))
    assert (found.f_hz, found.f_zh) == (pytest.approx(9.0), pytest.approx(9.0))
    assert (found.p_hh, found.n_hh) == (pytest.approx(4.0), pytest.approx(0.0))
    # Without ∂²f/∂a²: all that is left is ∂²f/∂h² = 2 and ∂²f/∂h∂z = 1.
    printed = slope_terms(polynomial(), states, printed=True)
    assert (printed.f_hh, printed.f_hz, printed.f_zz) == (
        pytest.approx(4.0),
        pytest.approx(1.0),
        pytest.approx(0.0),
    )
    assert printed.f_h == pytest.approx(found.f_h)


def test_printed_bound_by_hand():
    still = polynomial()._replace(
        sequence=lambda h, z, a: 0 * h,
        predictor=lambda h: 0 * h,
        predictor_noise=lambda h: 0 * h[:, None],
    )
    found = slope_terms(still, jnp.ones((1, 1, 2)))
    # All slopes are 0: J_0 + J_1 = 2 and both exponentials are 1.
    assert found.printed_bound(0.1, 3.0) == pytest.approx(3 * (0.1 * 2 + 0.01 * 2))
    steep = slope_terms(polynomial(), jnp.full((1, 1, 2), 2.0))
    assert steep.printed_bound(1e-3, 1.0) == np.inf


@pytest.mark.parametrize("noises", [0, 1])
@pytest.mark.parametrize("seed", range(2))
def test_divergence_bound_holds_on_the_whole_tree(seed, noises):
    """Of a linear system every state has the same Jacobians: the bound is rigorous."""
    _, _, system = linear(seed)
    if noises == 0:
        system = system._replace(diffusion=lambda x: 0 * x[:, None])
    tree = rademacher_tree(STEPS, 1, DT)
    start, error = jnp.ones(3), jnp.array([2.0, -1.0, 0.5])
    errors = jnp.broadcast_to(error, (len(tree), 3))
    found = divergence(system, start, errors, tree).mean
    square = float(error @ error)
    states = trajectories(system, start, tree[:1])
    bound = divergence_bound(system, states, STEPS * DT) * square
    assert square <= found <= bound
    assert bound < 1000 * square  # and it is no astronomical number
    # Linear: twice the error, four times the squared distance.
    assert divergence(system, start, 2 * errors, tree).mean == pytest.approx(4 * found)


def test_divergence_bound_is_attained_without_noise():
    system = EulerMaruyama(lambda x: 0.5 * x, lambda x: 0 * x[:, None], DT)
    rows = jnp.zeros((1, STEPS, 1))
    found = divergence(system, jnp.ones(1), jnp.full((1, 1), 0.3), rows).mean
    states = trajectories(system, jnp.ones(1), rows)
    bound = divergence_bound(system, states, STEPS * DT)
    assert found == pytest.approx(0.09 * bound, rel=1e-10)


def test_divergence_bound_of_a_map_that_forgets_all():
    """dt = 1 and F(x) = 0: the error is gone after one step, and the rate is −1."""
    system = EulerMaruyama(lambda x: -x, lambda x: 0 * x[:, None], 1.0)
    assert divergence_bound(system, jnp.ones((1, 1, 2)), 5.0) == pytest.approx(1.0)


def test_value_expansion_falls_with_the_third_power():
    system = example_rollout().system()
    tree = rademacher_tree(3, 2, DT)
    start = jnp.array([0.3, -0.2, 0.5, 0.1, 0.4])
    errors = jnp.asarray(np.random.default_rng(0).normal(size=(len(tree), 5)))
    value = lambda x: jnp.sin(jnp.sum(x)) + x[0] * x[3]
    found = value_expansion(system.step, value, start, errors, tree)
    small, large = (
        float(jnp.mean(jnp.abs(found.remainder(scale)))) for scale in (1e-3, 2e-3)
    )
    assert np.log2(large / small) == pytest.approx(3.0, abs=0.05)
    # One path by hand: Corollary 4.2 with the path's Jacobian and second derivatives.
    last = lambda x: trajectory(system, x, tree[5])[-1]
    jacobian, bent = jax.jacfwd(last)(start), jax.jacfwd(jax.jacfwd(last))(start)
    slope, curve = jax.grad(value)(last(start)), jax.hessian(value)(last(start))
    moved = jacobian @ errors[5]
    second = slope @ jnp.einsum("nij,i,j->n", bent, errors[5], errors[5])
    second = second + moved @ curve @ moved
    assert found.first[5] == pytest.approx(float(slope @ moved), rel=1e-10)
    assert found.second[5] == pytest.approx(float(second), rel=1e-10)
