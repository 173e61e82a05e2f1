"""The penalty with its standard error over probes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_penalty_op import make_head

from kernels import jacobian_penalty, jacobian_penalty_stats

C = 8


@pytest.mark.parametrize("implementation", ["xla", "reference"])
@pytest.mark.parametrize("kind", ["rademacher", "hadamard"])
def test_the_error_is_that_of_many_draws(kind, implementation):
    """Its mean square over keys is the variance of the estimate over keys."""
    u, head = make_head(jax.random.key(0), n=4, c=C, sharpness=3.0)
    options = {"classes": C, "probes": 3, "probe_kind": kind}
    options["implementation"] = implementation

    @jax.jit
    @jax.vmap
    def draw(key):
        found = jacobian_penalty_stats(u, head, key, **options)
        return found, jacobian_penalty(u, head, key, **options)

    found, plain = draw(jax.random.split(jax.random.key(1), 4000))
    np.testing.assert_allclose(found.value, plain, rtol=1e-5)
    variance = jnp.var(found.value, axis=0, ddof=1)
    assert np.all(np.asarray(variance) > 0)
    np.testing.assert_allclose(
        jnp.mean(found.standard_error**2, axis=0), variance, rtol=0.1
    )


def test_the_exact_penalty_has_no_error():
    u, head = make_head(jax.random.key(0), c=C)
    found = jacobian_penalty_stats(u, head, None, classes=C, probe_kind="exact")
    plain = jacobian_penalty(u, head, None, classes=C, probe_kind="exact")
    np.testing.assert_allclose(found.value, plain, rtol=1e-5)
    assert not np.any(found.standard_error)
    # All hadamard columns are the exact penalty too.
    options = {"classes": C, "probe_kind": "hadamard", "probes": C - 1}
    whole = jacobian_penalty_stats(u, head, jax.random.key(0), **options)
    np.testing.assert_allclose(whole.value, plain, rtol=1e-4)
    assert not np.any(whole.standard_error)


@pytest.mark.parametrize("probes", [None, 1])
def test_one_probe_has_no_standard_error(probes):
    u, head = make_head(jax.random.key(0), c=C)
    with pytest.raises(ValueError, match=r"probes=.*take at least 2"):
        jacobian_penalty_stats(u, head, jax.random.key(0), classes=C, probes=probes)
