"""The trace of a Hessian, against the matrix itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.smoothness import hessian_trace


def test_the_trace_is_that_of_the_hessian(getkey):
    """Within its own standard error, at points of a function that is no quadratic."""
    matrix = jax.random.normal(getkey(), (6, 6))
    fn = lambda x: jnp.sum(jnp.tanh(matrix @ x) ** 2) + jnp.prod(x[:3])
    for x in jax.random.normal(getkey(), (5, 6)):
        found = hessian_trace(fn, x, key=getkey(), probes=2000)
        error = found.trace - jnp.trace(jax.hessian(fn)(x))
        assert abs(error) < 4.5 * found.standard_error
    assert found.standard_error > 0


def test_signs_are_exact_for_a_diagonal_hessian(getkey):
    scales = jnp.array([1.0, -2.0, 5.0])
    fn = lambda x: jnp.sum(scales * x**2) / 2
    found = hessian_trace(fn, jnp.ones(3), key=getkey(), probes=2)
    np.testing.assert_allclose(found.trace, 4.0, rtol=1e-6)
    np.testing.assert_allclose(found.standard_error, 0.0, atol=1e-6)


def test_one_probe_is_refused(getkey):
    with pytest.raises(ValueError, match="probes=1"):
        hessian_trace(jnp.sum, jnp.ones(2), key=getkey(), probes=1)
