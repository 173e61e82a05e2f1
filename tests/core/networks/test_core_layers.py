"""Layers against an independent float64 computation in numpy."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import dense, filled, linear, wide

from core.networks.layers import (
    MLP,
    BlockLinear,
    Dense,
    Linear,
    RMSNorm,
    cast,
    truncated_normal,
)


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def assert_close(got, wanted, tolerance=2e-5):
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


def test_layers_map_the_last_axis(getkey):
    x = jax.random.normal(getkey(), (2, 3, 5))
    layer = filled(functools.partial(Linear, 5, 4), 2)
    assert_close(layer(x), linear(layer, x))
    assert_close(layer(x[0, 0]), linear(layer, x[0, 0]))
    mlp = filled(functools.partial(MLP, 5, 4, 2), 3)
    first, second = mlp.layers
    assert_close(mlp(x), dense(second, dense(first, x)))
    assert_close(mlp(x[0, 0]), dense(second, dense(first, x[0, 0])))


def test_rms_norm_by_hand():
    norm = eqx.tree_at(lambda n: n.scale, RMSNorm(2), jnp.array([1.0, 2.0]))
    # The mean square of (3, 4) is 12.5, that of (0.01, 0) is half of 1e-4.
    root = np.sqrt(12.5 + 1e-4)
    np.testing.assert_allclose(norm(jnp.array([3.0, 4.0])), [3 / root, 8 / root], 1e-6)
    tiny = norm(jnp.array([0.01, 0.0]))
    np.testing.assert_allclose(tiny, [0.01 / np.sqrt(1.5e-4), 0], rtol=1e-5)


def test_rms_norm_computes_in_float32_and_keeps_the_type():
    x = jnp.array([300.0, 301.0], jnp.float16)  # its square overflows float16
    out = RMSNorm(2)(x)
    assert out.dtype == jnp.float16
    np.testing.assert_allclose(out, x / np.sqrt(np.mean(wide(x) ** 2)), rtol=1e-3)


def test_initial_weights(getkey):
    weight = np.asarray(truncated_normal(getkey(), (200, 300), 200))
    count = weight.size
    assert abs(weight.mean()) < 3 / np.sqrt(200 * count)
    # The fourth moment of the cut normal makes this bound a generous one.
    assert abs(weight.std() * np.sqrt(200) - 1) < 3 / np.sqrt(2 * count)
    assert np.abs(weight).max() <= 2 * 1.1369 / np.sqrt(200)
    halved = truncated_normal(jax.random.key(5), (4, 4), 200, scale=0.5)
    whole = truncated_normal(jax.random.key(5), (4, 4), 200)
    np.testing.assert_allclose(halved, 0.5 * whole, rtol=1e-6)
    layer = Dense(3, 4, key=getkey())
    np.testing.assert_array_equal(layer.linear.bias, np.zeros(4))
    np.testing.assert_array_equal(layer.norm.scale, np.ones(4))
    np.testing.assert_array_equal(Linear(3, 4, key=getkey(), scale=0.0).weight, 0)


def test_block_linear_counts_the_inputs_of_all_blocks(getkey):
    layer = BlockLinear(400, 600, 4, key=getkey())
    assert layer.weight.shape == (4, 100, 150)
    assert layer.bias.shape == (600,)
    # As in DreamerV3: a fan-in of 400, though each output reads 100 inputs only.
    error = np.std(layer.weight) * np.sqrt(400) - 1
    assert abs(error) < 3 / np.sqrt(2 * layer.weight.size)


def test_blocks_must_divide_the_sizes(getkey):
    with pytest.raises(ValueError, match=r"groups=3.*inputs=7"):
        BlockLinear(7, 6, 3, key=getkey())


def test_a_bias_has_its_gradient_in_bfloat16(getkey):
    """The sum over many rows is not rounded at each of them."""
    linear = cast(Linear(3, 4, key=getkey()), jnp.bfloat16)
    x = jnp.zeros((20_000, 3), jnp.bfloat16)
    weight = jax.random.uniform(getkey(), (20_000, 4), jnp.bfloat16)
    gradient = jax.jit(jax.grad(lambda linear: jnp.sum(linear(x) * weight)))(linear)
    wanted = np.asarray(weight, np.float64).sum(0)
    found = np.asarray(gradient.bias, np.float64)
    np.testing.assert_allclose(found, wanted, rtol=0.005)
