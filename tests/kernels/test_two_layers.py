"""The penalty of a head with two hidden layers, against its definition."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import (
    RMS_EPS,
    TwoLayerHead,
    row_probe_penalty,
    two_layer_penalty_mean,
)
from kernels.head import ACTIVATIONS

pytestmark = pytest.mark.usefixtures("quick_compiles")

N, D, H, G, K, C = 6, 7, 5, 8, 3, 4


@pytest.fixture
def head(getkey):
    normal = lambda *shape: jax.random.normal(getkey(), shape)
    return TwoLayerHead(
        w_in=normal(D, H) / D**0.5,
        scale_in=1 + 0.3 * normal(H),
        w_mid=normal(H, G) / H**0.5,
        b_mid=0.3 * normal(G),
        scale_mid=1 + 0.3 * normal(G),
        w_out=normal(G, K * C) / G**0.5,
        b_out=0.3 * normal(K * C),
    )


def probabilities(head, a, activation, unimix):
    """Of one state, from the first layer's pre-activation."""
    phi = ACTIVATIONS[activation]
    norm = lambda x, scale: scale * x * jax.lax.rsqrt(jnp.mean(x * x) + RMS_EPS)
    x = phi(norm(a, head.scale_in))
    x = phi(norm(x @ head.w_mid + head.b_mid, head.scale_mid))
    logits = (x @ head.w_out + head.b_out).reshape(K, C)
    return (1 - unimix) * jax.nn.softmax(logits) + unimix / C


def by_definition(head, u, bias, key, *, activation="silu", unimix=0.01, **options):
    fn = lambda u: probabilities(head, u @ head.w_in + bias, activation, unimix)
    return jnp.mean(row_probe_penalty(fn, u, key, rows=K, classes=C, **options))


def by_formula(head, u, bias, key, **options):
    a = u @ head.w_in + bias[None]
    return two_layer_penalty_mean(a, head, key, classes=C, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"probes": 3, "activation": "tanh"},
        {"probe_kind": "hadamard", "probes": 2, "activation": "gelu"},
        {"probe_kind": "exact", "unimix": 0.2},
    ],
)
def test_value_and_gradients_are_those_of_the_definition(head, options, getkey):
    u, bias = jax.random.normal(getkey(), (N, D)), jax.random.normal(getkey(), (H,))
    key = getkey()
    # Times 3, as λ does in training: the cotangent is not 1.
    times_3 = lambda fn: lambda *args: 3.0 * fn(*args, **options)
    (value, bars), (wanted, wanted_bars) = (
        jax.jit(jax.value_and_grad(times_3(fn), argnums=(0, 1, 2)))(head, u, bias, key)
        for fn in (by_formula, by_definition)
    )
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    for x, y in zip(jax.tree.leaves(bars), jax.tree.leaves(wanted_bars), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-6 * np.abs(y).max())
    plain = by_formula(head, u, bias, key, **options)  # without a gradient
    np.testing.assert_allclose(3.0 * plain, value, rtol=1e-6)


@pytest.mark.parametrize("rows", [1, K])
def test_rows_in_one_step_of_the_loop_change_nothing(head, rows, getkey, monkeypatch):
    monkeypatch.setattr("kernels.gram.two_layers.row_block", lambda *_: rows)
    u, bias, key = jax.random.normal(getkey(), (N, D)), jnp.zeros(H), getkey()
    found = jax.jit(jax.value_and_grad(by_formula))(head, u, bias, key)
    wanted = jax.jit(jax.value_and_grad(by_definition))(head, u, bias, key)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-6 * np.abs(y).max())


def test_bfloat16_is_near_and_gradients_keep_the_dtype(head, getkey):
    u, bias, key = jax.random.normal(getkey(), (N, D)), jnp.zeros(H), getkey()
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), head)
    a = (u @ head.w_in).astype(jnp.bfloat16)
    mean = lambda head: two_layer_penalty_mean(a, head, key, classes=C)
    value, bars = jax.jit(jax.value_and_grad(mean))(narrow)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, by_definition(head, u, bias, key), rtol=0.05)
    assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(bars))


def test_a_gradient_of_the_gradient(head, getkey):
    u, bias, key = jax.random.normal(getkey(), (N, D)), jnp.zeros(H), getkey()
    along = jax.tree.map(lambda x: jax.random.normal(getkey(), x.shape), head)

    def slope(fn):
        gradient = lambda head: jax.grad(fn)(head, u, bias, key, probe_kind="exact")
        inner = lambda head: sum(
            jnp.vdot(x, y)
            for x, y in zip(
                jax.tree.leaves(gradient(head)), jax.tree.leaves(along), strict=True
            )
        )
        return jax.grad(inner)(head)

    found, wanted = (
        jax.tree.leaves(jax.jit(slope, static_argnums=0)(fn))
        for fn in (by_formula, by_definition)
    )
    for x, y in zip(found, wanted, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=2e-5 * np.abs(y).max())


def test_errors_name_the_argument(head, getkey):
    a, key = jnp.zeros((N, H)), getkey()
    with pytest.raises(ValueError, match=r"head\.w_mid has shape \(5, 8\)"):
        two_layer_penalty_mean(jnp.zeros((N, H + 1)), head, key, classes=C)
    with pytest.raises(ValueError, match=r"head\.b_mid has shape"):
        two_layer_penalty_mean(a, head._replace(b_mid=head.b_out), key, classes=C)
    with pytest.raises(ValueError, match="classes=5 with head"):
        two_layer_penalty_mean(a, head, key, classes=5)
    with pytest.raises(ValueError, match="key=None"):
        two_layer_penalty_mean(a, head, None, classes=C)
    unchecked = inspect.unwrap(two_layer_penalty_mean)  # by the checks of types
    with pytest.raises(ValueError, match="activation='relu'"):
        unchecked(a, head, key, classes=C, activation="relu")
