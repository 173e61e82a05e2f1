"""The trace of a Hessian, of any JAX function, without forming it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


class HessianTrace(NamedTuple):
    """An estimate, and its standard error over the probes."""

    trace: Float[Array, ""]
    standard_error: Float[Array, ""]


def hessian_trace(
    fn: Callable[[Float[Array, " n"]], Float[Array, ""]],
    x: Float[Array, " n"],
    *,
    key: PRNGKeyArray,
    probes: int = 16,
) -> HessianTrace:
    """tr ∂²fn/∂x² at one point, by Hutchinson's estimator.

    The mean of vᵀ∇(∇fn·v) over random signs v: a gradient and its derivative along v
    each. An error N(0, σ²) on every entry of x changes fn by σ²/2 times the trace on
    average, to second order: small where the minimum is wide.

    Raises:
        ValueError: fewer than two probes, which have no standard error.
    """
    if probes < 2:
        raise ValueError(f"probes={probes}: at least 2 for a standard error")
    signs = jax.random.rademacher(key, (probes, *x.shape), x.dtype)
    along = lambda v: jnp.vdot(v, jax.jvp(jax.grad(fn), (x,), (v,))[1])
    found = jax.vmap(along)(signs)
    return HessianTrace(
        jnp.mean(found), jnp.std(found, ddof=1) / jnp.sqrt(1.0 * probes)
    )
