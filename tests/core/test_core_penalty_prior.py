"""The prior's penalty through the Gram matrix of its first layer, against the whole."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.penalty import PenaltyOptions, prior_penalty
from core.rssm import RSSM

pytestmark = pytest.mark.usefixtures("quick_compiles")

make_rssm = jax.jit(
    partial(RSSM, 3, 2, deter=8, hidden=5, categoricals=2, classes=3, blocks=2)
)


@pytest.mark.parametrize("kind", ["rademacher", "exact"])
def test_value_and_gradients_are_those_of_the_definition(kind, getkey):
    rssm = make_rssm(key=getkey())
    # Not the initial scale, bias and weights: every gradient must show.
    rssm = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(getkey(), x.shape), rssm)
    deter, key = jax.random.normal(getkey(), (4, 8)), getkey()

    def penalty(rssm, deter, implementation):
        options = PenaltyOptions(
            implementation=implementation, target="prior", probe_kind=kind
        )
        return prior_penalty(rssm, deter, key=key, options=options)

    value_and_grads = jax.jit(
        jax.value_and_grad(penalty, argnums=(0, 1)), static_argnums=2
    )
    both = {name: value_and_grads(rssm, deter, name) for name in ("reference", "xla")}
    chex.assert_trees_all_close(both["xla"], both["reference"], rtol=2e-4, atol=1e-6)


def test_exact_probes_give_the_jacobian_norm(getkey):
    rssm = make_rssm(key=getkey())
    deter = jax.random.normal(getkey(), (4, 8))
    options = PenaltyOptions(target="prior", probe_kind="exact")
    found = jax.jit(partial(prior_penalty, options=options))(rssm, deter, key=getkey())
    probs = lambda h: rssm.categorical.dist(rssm.prior_logits(h)).probs
    jacobians = jax.jit(jax.vmap(jax.jacrev(probs)))(deter)
    wanted = jnp.mean(jnp.sum(jacobians**2, axis=(2, 3)))  # mean over states and rows
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
