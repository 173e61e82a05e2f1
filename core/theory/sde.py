"""Discretized stochastic differential equations: steps, noise, Proposition B.1."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from core.theory.perturbation import Expansion, Loss, Step, expansion_terms


class EulerMaruyama(NamedTuple):
    """dx = (g_0 + ε σ) dt + (g + ε σ̄) dB, eq. (9) and (32), in steps of length `dt`.

    Attributes:
        drift: g_0, from (n,) to (n,).
        diffusion: g, from (n,) to (n, m), one column per Brownian motion.
        dt: time step.
        drift_error: σ, from (n,) to (n,); None means 0.
        diffusion_error: σ̄, from (n,) to (n, m); None means 0.
    """

    drift: Callable[[Array], Array]
    diffusion: Callable[[Array], Array]
    dt: float
    drift_error: Callable[[Array], Array] | None = None
    diffusion_error: Callable[[Array], Array] | None = None

    def step(self, x: Float[Array, "n"], row: Float[Array, "m"]) -> Float[Array, "n"]:
        """One unperturbed step with the Brownian increments `row`."""
        return x + self.drift(x) * self.dt + self.diffusion(x) @ row

    def expand(
        self, loss: Loss, x0: Float[Array, "*paths n"], noise: Float[Array, "paths t m"]
    ) -> Expansion:
        """`expansion_terms` of this system."""
        return expansion_terms(self.step, loss, x0, noise, **self.increments())

    def increments(self) -> dict[str, Step | None]:
        """The errors of one step, σ dt and σ̄ dB, as arguments of `expansion_terms`."""
        sigma, sigma_bar = self.drift_error, self.diffusion_error
        drift = None if sigma is None else lambda x, _: sigma(x) * self.dt
        noise = None if sigma_bar is None else lambda x, row: sigma_bar(x) @ row
        return {"drift_error": drift, "diffusion_error": noise}


def brownian(
    key: Array, *, paths: int, steps: int, size: int, dt: float
) -> Float[Array, "paths steps size"]:
    """Independent normal increments, variance `dt`, of `size` Brownian motions."""
    return jax.random.normal(key, (paths, steps, size)) * jnp.sqrt(dt)


def rademacher_tree(
    steps: int, size: int, dt: float
) -> Float[Array, "paths steps size"]:
    """All 2^(steps·size) sequences of increments ±√dt, so that means are exact.

    Raises `ValueError` above 2^22 paths.
    """
    bits = steps * size
    if not 0 < bits <= 22:
        raise ValueError(
            f"steps {steps} times size {size} is {bits}; the tree has 2^{bits} paths, "
            "give 1 to 22"
        )
    codes = np.arange(2**bits)[:, None] >> np.arange(bits)
    signs = 1.0 - 2.0 * (codes & 1)
    return jnp.asarray(np.sqrt(dt) * signs.reshape(2**bits, steps, size))


def gaussian_given_inputs(
    drift: Float[Array, "time n"], diffusion: Float[Array, "time n m"], dt: float
) -> tuple[Float[Array, "n"], Float[Array, "n n"]]:
    """Mean and covariance of dz = q dt + q̄ dB from 0 with *given* q, q̄ (Prop. B.1).

    z is Gaussian with mean ∫q ds and covariance ∫q̄ q̄ᵀ ds. This holds if q and q̄ are
    functions of time or of inputs independent of B. It fails for inputs that depend on
    z, such as the hidden state of a world model: conditioning on their path also
    conditions the noise.
    """
    mean = dt * jnp.sum(drift, axis=0)
    covariance = dt * jnp.einsum("tnm,tkm->nk", diffusion, diffusion)
    return mean, covariance
