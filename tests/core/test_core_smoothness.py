"""Exact Jacobian norms and KL sensitivities against brute force."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.rssm import RSSM
from core.smoothness import (
    Inputs,
    jacobian_norms,
    kl_sensitivity,
    recurrent_norms,
)
from core.states import State

N, H, E = 3, 8, 5
SIZES: dict[str, Any] = {
    "deter": H,
    "hidden": 6,
    "categoricals": 2,
    "classes": 4,
    "blocks": 2,
}


@pytest.fixture(scope="module")
def rssm() -> RSSM:
    return RSSM(E, 2, key=jax.random.key(0), **SIZES)


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    keys = jax.random.split(jax.random.key(1))
    draw = lambda key, size: jax.random.normal(key, (N, size))
    return Inputs(draw(keys[0], H), draw(keys[1], E))


def test_norms_are_those_of_the_whole_jacobian(rssm, inputs):
    posterior = lambda u: rssm.dist(rssm.posterior_logits(u[:H], u[H:])).probs
    prior = lambda h: rssm.dist(rssm.prior_logits(h)).probs
    found = jax.jit(jacobian_norms)(rssm, inputs)
    u = jnp.concatenate(inputs, axis=-1)
    for name, f, x in (("posterior", posterior, u), ("prior", prior, inputs.deter)):
        jacobian = jax.vmap(jax.jacrev(f))(x)  # [n, rows, classes, inputs]
        expected = jnp.mean(jnp.sum(jacobian**2, axis=(2, 3)), axis=1)
        np.testing.assert_allclose(found[name], expected, rtol=2e-5)


def test_the_recurrent_norm_is_that_of_the_whole_jacobian(rssm, inputs):
    """In h and z, for a z that is drawn."""
    keys = jax.random.split(jax.random.key(5))
    logits = jax.vmap(rssm.posterior_logits)(*inputs)
    z = rssm.sample(logits, jax.random.uniform(keys[0], logits.shape[:-1]))
    latents = State(inputs.deter, z)
    actions = jax.random.uniform(keys[1], (N, 2), minval=-1)
    found = jax.jit(recurrent_norms)(rssm, latents, actions)
    size = z[0].size

    def f(x, action):
        return rssm.recurrent(State(x[:-size], x[-size:].reshape(z[0].shape)), action)

    jacobian = jax.vmap(jax.jacfwd(f))(latents.features, actions)
    assert jacobian.shape == (N, H, H + size)
    np.testing.assert_allclose(found, jnp.sum(jacobian**2, axis=(1, 2)), rtol=2e-5)


@pytest.mark.parametrize("magnitude", [0.003, 0.03])
def test_small_perturbations_have_the_fisher_form(rssm, inputs, magnitude):
    """KL(r(u) ‖ r(u + δ)) → ½ δᵀ F δ: half the length, half of KL / ‖δ‖."""
    key = jax.random.key(2)
    one = kl_sensitivity(rssm, inputs, magnitude, key=key)
    half = kl_sensitivity(rssm, inputs, magnitude / 2, key=key)
    for part in ("posterior", "prior"):
        assert np.all(np.asarray(one[part]) > 0)
        np.testing.assert_allclose(half[part], one[part] / 2, rtol=0.1)


def test_it_is_the_kl_divergence_over_the_length(rssm, inputs):
    key = jax.random.key(4)
    found = kl_sensitivity(rssm, inputs, 0.3, key=key)["prior"]
    direction = jax.random.normal(jax.random.split(key)[1], (N, H))
    direction /= jnp.linalg.norm(direction, axis=-1, keepdims=True)
    length = 0.3 * jnp.mean(jnp.linalg.norm(inputs.deter, axis=-1))
    dist = lambda h: rssm.dist(rssm.prior_logits(h))
    kl = dist(inputs.deter).kl(dist(inputs.deter + length * direction))
    np.testing.assert_allclose(found, kl / length, rtol=1e-3)


def test_the_prior_depends_on_h_alone(rssm, inputs):
    key = jax.random.key(3)
    plain = kl_sensitivity(rssm, inputs, 0.1, key=key)
    other = kl_sensitivity(rssm, inputs._replace(embed=2 * inputs.embed), 0.1, key=key)
    np.testing.assert_array_equal(other["prior"], plain["prior"])
    assert np.all(np.asarray(other["posterior"] != plain["posterior"]))
