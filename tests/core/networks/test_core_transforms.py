"""Scalar transforms against values worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.networks.transforms import symexp, symexp_bins, symlog, twohot, unimix

E = np.e
BINS = jnp.array([-3.0, -1.0, 0.0, 1.0, 3.0])


@pytest.mark.parametrize(
    ("x", "wanted"),
    [(0, 0), (E - 1, 1), (1 - E, -1), (E**3 - 1, 3), (1 - E**12, -12), (1e-6, 1e-6)],
)
def test_symlog_and_symexp_values(x, wanted):
    np.testing.assert_allclose(symlog(jnp.asarray(x, jnp.float32)), wanted, rtol=1e-6)
    np.testing.assert_allclose(symexp(jnp.asarray(wanted, jnp.float32)), x, rtol=2e-6)


def test_symexp_inverts_symlog_over_many_magnitudes():
    magnitudes = 10.0 ** np.arange(-8, 8)
    x = jnp.asarray(np.concatenate([-magnitudes, magnitudes]), jnp.float32)
    np.testing.assert_allclose(symexp(symlog(x)), x, rtol=1e-5)


def test_unimix_values():
    logits = jnp.log(jnp.array([[1.0, 2.0, 5.0], [3.0, 3.0, 3.0]]))
    # 0.9 of the softmax and a tenth of a third for every class.
    wanted = 0.9 * np.array([[1 / 8, 2 / 8, 5 / 8], [1 / 3] * 3]) + 0.1 / 3
    np.testing.assert_allclose(unimix(logits, 0.1), wanted, rtol=1e-6)
    np.testing.assert_allclose(
        unimix(logits, 0.0)[0], np.array([1, 2, 5]) / 8, rtol=1e-6
    )


def test_unimix_bounds_every_probability():
    probs = unimix(jnp.array([500.0, 0.0, -500.0, 0.0]))
    np.testing.assert_allclose(probs, [0.9925, 0.0025, 0.0025, 0.0025], rtol=1e-6)


def test_default_bins_are_antisymmetric_and_evenly_spaced_in_symlog():
    bins = np.asarray(symexp_bins())
    assert bins.shape == (255,)
    assert bins.dtype == np.float32
    np.testing.assert_array_equal(bins, -bins[::-1])
    assert bins[127] == 0
    np.testing.assert_allclose(bins[-1], np.exp(20.0) - 1, rtol=1e-5)
    np.testing.assert_allclose(np.diff(symlog(jnp.asarray(bins))), 20 / 127, atol=5e-6)


def test_few_bins_by_hand():
    wanted = [1 - E**2, 1 - E, 0, E - 1, E**2 - 1]
    np.testing.assert_allclose(symexp_bins(5, -2.0), wanted, rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 254])
def test_bins_must_be_odd_and_several(count):
    with pytest.raises(ValueError, match=f"count={count}.*odd"):
        symexp_bins(count)


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        (0.25, [0, 0, 0.75, 0.25, 0]),
        (2.0, [0, 0, 0, 0.5, 0.5]),
        (-1.5, [0.25, 0.75, 0, 0, 0]),
        (-0.5, [0, 0.5, 0.5, 0, 0]),
        # On a bin, and outside the support.
        (0.0, [0, 0, 1, 0, 0]),
        (-3.0, [1, 0, 0, 0, 0]),
        (3.0, [0, 0, 0, 0, 1]),
        (-1e9, [1, 0, 0, 0, 0]),
        (1e9, [0, 0, 0, 0, 1]),
    ],
)
def test_twohot_values(target, wanted):
    np.testing.assert_allclose(twohot(jnp.asarray(target), BINS), wanted, atol=1e-7)


def test_twohot_keeps_the_expectation(getkey):
    bins = symexp_bins()
    target = symexp(jax.random.uniform(getkey(), (4, 50), minval=-19.0, maxval=19.0))
    weights = np.asarray(jax.jit(twohot)(target, bins), np.float64)
    assert weights.shape == (4, 50, 255)
    assert (weights >= 0).all()
    assert (np.sum(weights > 0, axis=-1) <= 2).all()
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(weights @ np.asarray(bins, np.float64), target, 1e-5)
