"""Probe vectors: what makes the estimates unbiased, and the exact one exact."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import row_probe_penalty, sample_probes
from kernels.probes import rademacher_probes, zero_sum_basis


def sample(key, **options):
    options = {"probes": 1, "rows": 3, "n": 5, "classes": 4, **options}
    return np.asarray(sample_probes(key, dtype=jnp.dtype("float32"), **options))


@pytest.mark.parametrize("classes", [2, 3, 4, 7, 8, 16, 32])
def test_basis_is_orthonormal_and_sums_to_zero(classes):
    basis = zero_sum_basis(classes)
    assert basis.shape == (classes - 1, classes)
    np.testing.assert_allclose(basis @ basis.T, np.eye(classes - 1), atol=1e-14)
    np.testing.assert_allclose(basis.sum(1), 0, atol=1e-14)


@pytest.mark.parametrize("classes", [2, 8, 16])
def test_powers_of_two_have_signs(classes):
    signs = zero_sum_basis(classes) * classes**0.5
    np.testing.assert_allclose(np.abs(signs), 1)


def test_rademacher_entries_are_independent_signs(getkey):
    signs = sample(getkey(), kind="rademacher", probes=3, rows=7, n=401, classes=5)
    assert signs.shape == (3, 7, 401, 5)
    assert set(np.unique(signs)) == {-1.0, 1.0}
    flat = signs.reshape(-1, 5)
    count = len(flat)
    # Second moments: identity within 5 standard errors, along every axis.
    np.testing.assert_allclose(flat.T @ flat / count, np.eye(5), atol=5 / count**0.5)
    assert abs(flat.mean()) < 5 / flat.size**0.5
    for axis in range(3):
        shifted = np.roll(signs, 1, axis)
        assert abs((signs * shifted).mean()) < 5 / signs.size**0.5


@pytest.mark.parametrize("classes", [4, 5])
def test_hadamard_probes_are_distinct_within_a_state_and_row(classes, getkey):
    probes = sample(getkey(), kind="hadamard", probes=classes - 1, classes=classes)
    gram = np.einsum("mknc,lknc->knml", probes, probes) / (classes - 1)
    wanted = np.broadcast_to(np.eye(classes - 1), gram.shape)
    np.testing.assert_allclose(gram, wanted, atol=1e-6)


def test_hadamard_choices_are_uniform_and_differ_between_states(getkey):
    """Chi-squared of the basis vectors drawn, and of pairs of them, over many keys."""
    basis = np.sqrt(3) * zero_sum_basis(4)
    keys = jax.random.split(getkey(), 3000)
    draw = jax.vmap(
        lambda key: sample_probes(
            key,
            kind="hadamard",
            probes=2,
            rows=1,
            n=2,
            classes=4,
            dtype=jnp.dtype("float32"),
        )
    )
    probes = np.asarray(draw(keys))[:, :, 0]
    chosen = np.argmax(np.einsum("smnc,bc->smnb", probes, basis), axis=-1)
    singles = np.bincount(chosen[:, 0, 0], minlength=3)
    within = np.bincount(3 * chosen[:, 0, 0] + chosen[:, 1, 0], minlength=9)
    across = np.bincount(3 * chosen[:, 0, 0] + chosen[:, 0, 1], minlength=9)
    assert np.all(within[[0, 4, 8]] == 0)
    for counts, cells in [(singles, 3), (within, 6), (across, 9)]:
        mean = len(keys) / cells
        used = counts[counts > 0]
        assert len(used) == cells
        # The 99.99% point of chi-squared with 8 degrees of freedom is 31.8.
        assert np.sum((used - mean) ** 2) / mean < 31.8


def softmax_table(key, d, k, c):
    weights = jax.random.normal(key, (d, k * c))
    return lambda x: jax.nn.softmax((x @ weights).reshape(k, c))


@pytest.mark.parametrize("classes", [2, 4])
def test_all_sign_probes_average_to_the_frobenius_norm(classes, getkey):
    """Hutchinson's identity without randomness: the mean over all 2^C sign vectors."""
    fn = softmax_table(getkey(), 4, 2, classes)
    x = jax.random.normal(getkey(), (4,))
    jacobian = np.asarray(jax.jacrev(fn)(x))
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=classes)))
    squares = np.sum(np.einsum("sc,kcd->skd", signs, jacobian) ** 2, axis=-1)
    np.testing.assert_allclose(
        squares.mean(0), np.sum(jacobian**2, axis=(1, 2)), rtol=1e-5
    )
    exact = row_probe_penalty(
        fn, x[None], None, rows=2, classes=classes, probe_kind="exact"
    )
    np.testing.assert_allclose(exact[0], squares.mean(), rtol=1e-5)


@pytest.mark.parametrize(("classes", "probes"), [(4, 1), (4, 2), (5, 3)])
def test_hadamard_is_unbiased_over_all_choices(classes, probes, getkey):
    """The mean over every set of distinct scaled basis vectors is ‖J‖_F²."""
    fn = softmax_table(getkey(), 4, 1, classes)
    jacobian = np.asarray(jax.jacrev(fn)(jax.random.normal(getkey(), (4,))))[0]
    scaled = np.sqrt(classes - 1) * zero_sum_basis(classes)
    squares = np.sum((scaled @ jacobian) ** 2, axis=-1)
    sets = itertools.combinations(range(classes - 1), probes)
    estimates = [squares[list(chosen)].mean() for chosen in sets]
    np.testing.assert_allclose(np.mean(estimates), np.sum(jacobian**2), rtol=1e-5)


def test_same_key_same_probes(getkey):
    key = getkey()
    for kind in ("rademacher", "hadamard"):
        assert np.array_equal(sample(key, kind=kind), sample(key, kind=kind))
        assert not np.array_equal(sample(key, kind=kind), sample(getkey(), kind=kind))


@pytest.mark.parametrize("size", [1, 31, 32, 33])
def test_every_sign_takes_both_values(size, getkey):
    """No bit of a random word is lost at any length."""
    draws = jax.vmap(
        lambda key: rademacher_probes(
            key, probes=1, rows=1, n=1, classes=size, dtype=jnp.dtype("float32")
        )
    )(jax.random.split(getkey(), 64))
    assert np.all(np.abs(np.asarray(draws).mean(0)) < 0.8)


def test_errors():
    with pytest.raises(ValueError, match="classes=1"):
        sample(jax.random.key(0), kind="rademacher", classes=1)
