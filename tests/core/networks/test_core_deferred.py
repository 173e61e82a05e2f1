"""Gradients taken after the scan are the gradients."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forms import OBSERVE
from jaxprs import scans, stored_by_scans

from core.networks.deferred import deferred_scan, scan
from core.rssm import RSSM


@pytest.fixture
def rssm(getkey):
    return RSSM(
        5,
        2,
        key=getkey(),
        deter=12,
        hidden=6,
        categoricals=3,
        classes=4,
        blocks=3,
        unimix=0.01,
    )


def loss_of(rssm, inputs, *, form):
    initial, embeds, actions, is_first, key, weights = inputs
    observe = OBSERVE[form]
    last, observed = observe(rssm, initial, embeds, actions, is_first, key=key)
    found = jax.tree.leaves((last, observed))
    return sum(jnp.sum(w * x) for w, x in zip(weights, found, strict=True))


def example(rssm, getkey, time=5, batch=3):
    is_first = np.zeros((time, batch), bool)
    is_first[2, 1] = True
    initial = rssm.initial(batch)._replace(
        deter=jax.random.normal(getkey(), (batch, rssm.deter))
    )
    args = (
        initial,
        jax.random.normal(getkey(), (time, batch, 5)),
        jax.random.normal(getkey(), (time, batch, 2)),
        jnp.asarray(is_first),
    )
    key = getkey()
    found = jax.eval_shape(lambda: rssm.observe(*args, key=key))
    weights = [jax.random.normal(getkey(), x.shape) for x in jax.tree.leaves(found)]
    return *args, key, weights


def test_values_and_gradients_are_those_of_the_definition(rssm, getkey):
    inputs = example(rssm, getkey)

    @jax.jit
    def every_form(rssm, initial, embeds):
        given = (initial, embeds, *inputs[2:])
        return [
            jax.value_and_grad(
                lambda rssm, a, b, form=form: loss_of(
                    rssm, (a, b, *inputs[2:]), form=form
                ),
                argnums=(0, 1, 2),
            )(rssm, *given[:2])
            for form in OBSERVE
        ]

    plain, *others = every_form(rssm, *inputs[:2])
    for other in others:
        for x, y in zip(jax.tree.leaves(plain), jax.tree.leaves(other), strict=True):
            scale = np.abs(x).max() + 1e-6
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=2e-6 * scale)
    # None of the recurrent weights is without a gradient.
    recurrent = plain[1][0]
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(recurrent.mix))


def test_without_a_gradient_it_is_the_plain_scan(rssm, getkey):
    inputs = example(rssm, getkey)
    jaxpr = str(
        jax.make_jaxpr(lambda: OBSERVE["deferred"](rssm, *inputs[:4], key=inputs[4]))
    )
    assert "_tapped" not in jaxpr
    a = OBSERVE["deferred"](rssm, *inputs[:4], key=inputs[4])
    b = OBSERVE["block_gru"](rssm, *inputs[:4], key=inputs[4])
    chex.assert_trees_all_equal(a, b)


def test_no_sum_of_weights_is_carried_through_the_backward_scan(rssm, getkey):
    """The point of it: what the backward scan sums are vectors, no weights."""
    inputs = example(rssm, getkey)

    def summed_in_the_scan(form):
        gradient = jax.grad(lambda rssm: loss_of(rssm, inputs, form=form))
        jaxpr = jax.make_jaxpr(gradient)(rssm)
        found = [v.aval for scan in scans(jaxpr.jaxpr) for v in scan.outvars]
        return {getattr(x, "shape", ()) for x in found}

    weights = {rssm.gates.weight.shape, rssm.stoch_in.linear.weight.shape}
    assert weights <= summed_in_the_scan("block_gru")
    assert not weights & summed_in_the_scan("deferred")


def test_the_wide_form_stores_one_array_a_step(rssm, getkey):
    """Forward the states, backward their cotangents: each is a kernel on a GPU."""
    inputs = example(rssm, getkey)

    def stored(form):
        gradient = jax.grad(lambda rssm: loss_of(rssm, inputs, form=form))
        return stored_by_scans(jax.make_jaxpr(gradient)(rssm).jaxpr)

    assert stored("wide") == [1, 1]
    # What is multiplied and the products, in place of all that JAX keeps.
    assert 10 < max(stored("deferred")) < 20 < max(stored("block_gru"))


@pytest.mark.long
def test_the_wide_form_of_several_agents_is_that_of_each(rssm, getkey):
    """As `--seeds` maps it."""
    inputs = example(rssm, getkey)
    gradient = jax.grad(lambda rssm: loss_of(rssm, inputs, form="wide"))
    other = jax.tree.map(lambda x: x + 0.1, rssm)
    both = jax.tree.map(lambda *xs: jnp.stack(xs), rssm, other)
    found = jax.jit(jax.vmap(gradient))(both)
    for i, wanted in enumerate(jax.jit(lambda *x: list(map(gradient, x)))(rssm, other)):
        pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
        for x, y in pairs:
            scale = np.abs(y).max() + 1e-6
            np.testing.assert_allclose(x[i], y, rtol=1e-4, atol=1e-5 * scale)


def step(params, apply, carry, x):
    carry = jnp.tanh(apply("w", carry) + apply("v", x) + params)
    return carry, carry


def test_mixed_precision_sums_in_float32(getkey):
    """In bfloat16 the products are summed before they are rounded, once."""
    size, time = 4, 512
    weights = {
        "w": jnp.zeros((size, size), jnp.bfloat16),
        "v": 0.01 * jax.random.normal(getkey(), (size, size)).astype(jnp.bfloat16),
    }
    params = jnp.zeros((1, size), jnp.bfloat16)
    inputs = jnp.ones((time, 1, size), jnp.bfloat16)
    carry = jnp.zeros((1, size), jnp.bfloat16)

    def gradient(run, dtype):
        cast = lambda tree: jax.tree.map(lambda x: x.astype(dtype), tree)
        loss = lambda weights: jnp.sum(
            run(step, cast(params), weights, cast(carry), cast(inputs))[1].astype(
                jnp.float32
            )
        )
        return jax.grad(loss)(cast(weights))["v"].astype(jnp.float32)

    wanted = gradient(scan, jnp.float32)
    error = lambda x: np.abs(x - wanted).max() / np.abs(wanted).max()
    deferred = error(gradient(deferred_scan, jnp.bfloat16))
    assert deferred < 0.01 < error(gradient(scan, jnp.bfloat16))
