"""Norms of Jacobians and their growth against the whole matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.smoothness import frobenius_norm, growth, spectral_norm


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def orthogonal(key, size=12):
    return jnp.linalg.qr(jax.random.normal(key, (size, size)))[0]


def with_singular_values(key, values):
    left, right = jax.random.split(key)
    size = len(values)
    return orthogonal(left, size) @ jnp.diag(values) @ orthogonal(right, size).T


def mlp(key):
    a, b = jax.random.split(key)
    first, second = jax.random.normal(a, (9, 5)), jax.random.normal(b, (4, 9))
    return lambda x: second @ jnp.tanh(first @ x)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
def test_spectral_norm_is_the_largest_singular_value(getkey, tolerance):
    matrices = jax.random.normal(getkey(), (20, 7, 12))
    exact = jnp.linalg.norm(matrices, ord=2, axis=(1, 2))
    at = lambda matrix, key: spectral_norm(
        lambda x: matrix @ x,
        jnp.zeros(12),
        key=key,
        tolerance=tolerance,
        max_iterations=10_000,
    )
    found = jax.vmap(at)(matrices, jax.random.split(getkey(), 20))
    assert np.all(found.converged)
    assert np.all(found.norm <= exact * (1 + 1e-12))
    assert np.all(found.norm >= exact * (1 - 2 * tolerance))
    assert np.all(found.iterations < 10_000)


def test_spectral_norm_of_a_network(getkey):
    f, x = mlp(getkey()), jax.random.normal(getkey(), (5,))
    found = jax.jit(lambda x, key: spectral_norm(f, x, key=key, tolerance=1e-8))(
        x, getkey()
    )
    exact = jnp.linalg.norm(jax.jacobian(f)(x), ord=2)
    assert found.converged
    np.testing.assert_allclose(found.norm, exact, rtol=1e-7)


def test_spectral_norm_of_a_tree(getkey):
    """The Jacobian is that of the long vectors."""
    matrix = jax.random.normal(getkey(), (3, 5))
    f = lambda x: {"a": matrix @ x["p"].reshape(-1), "b": 2 * x["q"]}
    x = {"p": jnp.ones((5, 1)), "q": jnp.ones(())}
    found = spectral_norm(f, x, key=getkey(), tolerance=1e-9)
    expected = max(float(jnp.linalg.norm(matrix, ord=2)), 2.0)
    np.testing.assert_allclose(found.norm, expected, rtol=1e-8)


def test_one_iteration_suffices_where_all_directions_are_alike(getkey):
    matrix = 3 * orthogonal(getkey())
    x = jnp.ones(12)
    found = spectral_norm(lambda x: matrix @ x, x, key=getkey())
    np.testing.assert_allclose(found.norm, 3, rtol=1e-12)
    assert found.converged and found.iterations == 1
    zero = spectral_norm(lambda x: 0 * x, x, key=getkey())
    assert zero.norm == 0 and zero.converged and zero.iterations == 1


def test_it_says_that_it_did_not_converge(getkey):
    """Close singular values: the error after few iterations is far above tolerance."""
    matrix = with_singular_values(getkey(), jnp.linspace(0.9, 1, 60))
    few = spectral_norm(
        lambda x: matrix @ x, jnp.ones(60), key=getkey(), max_iterations=5
    )
    assert few.norm < 1 - 1e-2
    assert not few.converged and few.iterations == 5
    invalid = spectral_norm(lambda x: jnp.nan * x, jnp.ones(3), key=getkey())
    assert not invalid.converged and np.isnan(invalid.norm)


def test_small_increases_are_not_taken_for_convergence(getkey):
    """One singular value of 1.1 among 10,000 of 1: at first the norm hardly moves."""
    size = 10_000
    scale = jnp.ones(size).at[17].set(1.1)
    at = lambda key: spectral_norm(lambda x: scale * x, jnp.ones(size), key=key)
    found = jax.vmap(at)(jax.random.split(getkey(), 20))
    start = jax.random.normal(getkey(), (size,))
    start /= jnp.linalg.norm(start)
    once = scale**2 * start
    once /= jnp.linalg.norm(once)
    ahead, before = jnp.linalg.norm(scale * once), jnp.linalg.norm(scale * start)
    assert ahead - before < 1e-3  # the default tolerance
    assert np.all(found.converged) and np.all(found.norm > 1.1 * (1 - 2e-3))


def test_spectral_norm_does_not_overflow(getkey):
    """Squares of these leave the range of float32."""
    for factor in (1e30, 1e-30):
        x = jnp.ones(3, jnp.float32)
        found = spectral_norm(lambda x, c=factor: c * x, x, key=getkey())
        np.testing.assert_allclose(found.norm, factor, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 0.0}, r"tolerance=0\.0: must be above 0"),
        ({"tolerance": jnp.nan}, "tolerance=nan"),
        ({"max_iterations": 0}, "max_iterations=0: must be at least 1"),
    ],
)
def test_spectral_norm_refuses(getkey, options, message):
    with pytest.raises(ValueError, match=message):
        spectral_norm(lambda x: x, jnp.ones(2), key=getkey(), **options)
    with pytest.raises(ValueError, match="x: it has no entries"):
        spectral_norm(lambda x: x, jnp.ones(0), key=getkey())


def test_frobenius_norm_is_unbiased_and_knows_its_error(getkey):
    f, x = mlp(getkey()), jax.random.normal(getkey(), (5,))
    exact = jnp.sum(jax.jacobian(f)(x) ** 2)
    keys = jax.random.split(getkey(), 2000)
    found = jax.vmap(lambda key: frobenius_norm(f, x, key=key, probes=8))(keys)
    spread = jnp.std(found.square)
    assert spread > 0.05 * exact
    assert abs(jnp.mean(found.square) - exact) < 4 * spread / 2000**0.5
    stated = jnp.sqrt(jnp.mean(found.standard_error**2))
    np.testing.assert_allclose(stated, spread, rtol=0.1)


def test_frobenius_norm_is_exact_where_columns_are_orthogonal(getkey):
    rotation, x = orthogonal(getkey()), jnp.ones(12)
    scale = jnp.arange(1.0, 13.0)
    one = frobenius_norm(lambda x: 3 * (rotation @ x), x, key=getkey(), probes=2)
    np.testing.assert_allclose(one.square, 9 * 12, rtol=1e-12)
    assert one.standard_error < 1e-12
    columns = frobenius_norm(
        lambda x: rotation @ (scale * x), x, key=getkey(), probes=3
    )
    np.testing.assert_allclose(columns.square, jnp.sum(scale**2), rtol=1e-12)
    # Orthogonal rows are not enough.
    rows = frobenius_norm(lambda x: scale * (rotation @ x), x, key=getkey(), probes=3)
    assert rows.standard_error > 1
    with pytest.raises(ValueError, match="probes=1: must be at least 2"):
        frobenius_norm(lambda x: x, x, key=getkey(), probes=1)


def products(step, x, inputs):
    """Φ_1 … Φ_T, and the states."""
    states, total, found = [], jnp.eye(x.size), []
    for each in inputs:
        total = jax.jacobian(step)(x, each) @ total
        x = step(x, each)
        states.append(x)
        found.append(total)
    return jnp.stack(states), jnp.stack(found)


def linear(key):
    matrix = jax.random.normal(key, (6, 6)) / 2
    return lambda x, a: matrix @ x + a


def nonlinear(key):
    matrix = jax.random.normal(key, (6, 6))
    return lambda x, a: jnp.tanh(matrix @ x + a)


@pytest.mark.parametrize("system", [linear, nonlinear])
def test_growth_is_that_of_the_product(getkey, system):
    step, x = system(getkey()), jax.random.normal(getkey(), (6,))
    inputs = 0.3 * jax.random.normal(getkey(), (7, 6))
    states, whole = products(step, x, inputs)
    frobenius = jnp.linalg.norm(whole, axis=(1, 2)) / 6**0.5
    spectral = jnp.linalg.norm(whole, ord=2, axis=(1, 2))

    every = jax.jit(lambda key: growth(step, x, inputs, key=key, probes=6))(getkey())
    np.testing.assert_allclose(every.states, states, rtol=1e-12)
    np.testing.assert_allclose(every.average, frobenius, rtol=1e-9)
    np.testing.assert_allclose(every.largest, spectral, rtol=1e-9)

    few = lambda key: growth(step, x, inputs, key=key, probes=2)
    found = jax.vmap(few)(jax.random.split(getkey(), 2000))
    assert np.all(found.largest <= spectral[None] * (1 + 1e-9))
    assert np.all(found.largest >= found.average * (1 - 1e-9))
    squares = found.average**2
    error = jnp.std(squares, axis=0) / 2000**0.5
    assert np.all(error > 0)
    assert np.all(abs(jnp.mean(squares, axis=0) - frobenius**2) < 4 * error)


def test_growth_of_rotations_is_exact_with_one_probe(getkey):
    rotation = orthogonal(getkey())
    step = lambda x, rate: rate * (rotation @ x)
    rates = jnp.array([2.0, 0.5, 1e-30, 0.1])
    found = growth(step, jnp.ones(12), rates, key=getkey(), probes=1)
    np.testing.assert_allclose(found.average, jnp.cumprod(rates), rtol=1e-12)
    np.testing.assert_allclose(found.largest, found.average, rtol=1e-12)


def test_growth_of_a_map_that_forgets(getkey):
    found = growth(
        lambda x, a: 0 * x + a, jnp.ones(3), jnp.ones(2), key=getkey(), probes=3
    )
    assert np.all(found.average == 0) and np.all(found.largest == 0)


@pytest.mark.parametrize("probes", [0, 4])
def test_growth_refuses(getkey, probes):
    with pytest.raises(ValueError, match=rf"probes={probes}: must be from 1 to 3"):
        growth(lambda x, a: x, jnp.ones(3), jnp.ones(2), key=getkey(), probes=probes)
