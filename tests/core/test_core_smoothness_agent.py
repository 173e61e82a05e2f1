"""Norms of an agent's maps against whole Jacobians and finite differences."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.agent import Agent
from core.sizes import ModelSize
from core.smoothness import (
    NormOptions,
    agent_maps,
    agent_norms,
    closed_loop,
    mean_curvature,
    state_norms,
    summarize,
)
from core.smoothness.agent import MAPS
from core.states import State

pytestmark = pytest.mark.long

N, FEATURES = 6, 14
SIZE = ModelSize(deter=8, hidden=6, classes=3, units=6, stoch=2, blocks=2)
# With a probe for each feature, the growth is exact.
OPTIONS = NormOptions(horizon=3, probes=FEATURES, tolerance=1e-3, max_iterations=500)


@pytest.fixture(scope="module")
def agent() -> Agent:
    """With every weight drawn: outputs of new heads are constant."""
    plain = Agent(5, 2, key=jax.random.key(0), size=SIZE)
    leaves, tree = jax.tree.flatten(eqx.filter(plain, eqx.is_inexact_array))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noise = [
        x + 0.3 * jax.random.normal(key, x.shape)
        for x, key in zip(leaves, keys, strict=True)
    ]
    return eqx.combine(jax.tree.unflatten(tree, noise), plain)


@pytest.fixture(scope="module")
def states(agent) -> tuple[State, jax.Array]:
    keys = jax.random.split(jax.random.key(2), 3)
    z = jax.random.randint(keys[0], (N, SIZE.stoch), 0, SIZE.classes)
    h = jnp.tanh(jax.random.normal(keys[1], (N, SIZE.deter)))
    embed = agent.model.rssm.sizes[1]
    return (
        State(h, jax.nn.one_hot(z, SIZE.classes)),
        jax.random.normal(keys[2], (N, embed)),
    )


class Measure:
    """The compiled function, and how often it was traced."""

    def __init__(self, states):
        self.traces = 0

        @eqx.filter_jit
        def measure(agent):
            self.traces += 1
            key = jax.random.key(3)
            return state_norms(agent, *states, key=key, options=OPTIONS)

        self.measure = measure


@pytest.fixture(scope="module")
def compiled(states) -> Measure:
    return Measure(states)


@pytest.fixture(scope="module")
def found(agent, compiled):
    return compiled.measure(agent)


class Whole(NamedTuple):
    """Of one map, at each state."""

    jacobian: jax.Array
    """As a matrix `[n, outputs, inputs]`."""
    direction: jax.Array
    slope: jax.Array
    """Along `direction`, by central differences."""


@pytest.fixture(scope="module")
def whole(agent, states) -> dict[str, Whole]:
    width = 3e-3

    def at(latent, embed):
        maps = {}
        for name, (f, x) in agent_maps(
            agent, latent, embed, horizon=OPTIONS.horizon
        ).items():
            v = jax.random.normal(jax.random.key(4), x.shape)
            slope = (f(x + width * v) - f(x - width * v)) / (2 * width)
            jacobian = jax.jacobian(f)(x).reshape(-1, x.size)
            maps[name] = Whole(jacobian, v, slope.reshape(-1))
        return maps

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(at))(*states))


@pytest.mark.parametrize("name", MAPS)
def test_norms_are_those_of_the_whole_jacobian(found, whole, name):
    jacobian = whole[name].jacobian
    exact = np.linalg.norm(jacobian, ord=2, axis=(1, 2))
    spectral = found.spectral[name]
    assert np.all(spectral.converged) and np.all(exact > 1e-3)
    assert np.all(spectral.norm <= exact * (1 + 1e-5))
    assert np.all(spectral.norm >= exact * (1 - 2e-3))
    square = np.sum(jacobian**2, axis=(1, 2))
    frobenius = found.frobenius[name]
    miss = np.abs(frobenius.square - square)
    assert np.all(miss <= 5 * frobenius.standard_error + 1e-5 * square)


def test_rows_are_the_posterior_and_prior_of_the_penalty(found, whole):
    """`rows` is ‖∂p/∂h‖_F² of a categorical; J of `prior` has all K of them."""
    square = np.sum(whole["prior"].jacobian ** 2, axis=(1, 2))
    np.testing.assert_allclose(found.rows["prior"], square / SIZE.stoch, rtol=1e-4)
    assert found.rows["posterior"].shape == (N,)


def test_growth_is_that_of_the_closed_loop(agent, states, found, whole):
    step = lambda x: closed_loop(agent, x)
    at = jax.jit(jax.vmap(lambda x: (step(x), jax.jacobian(step)(x))))
    x, phi = states[0].features, np.eye(FEATURES)
    for t in range(OPTIONS.horizon):
        x, jacobian = at(x)
        phi = np.asarray(jacobian) @ phi
        average = np.linalg.norm(phi, axis=(1, 2)) / FEATURES**0.5
        largest = np.linalg.norm(phi, ord=2, axis=(1, 2))
        np.testing.assert_allclose(found.growth.average[:, t], average, rtol=1e-4)
        np.testing.assert_allclose(found.growth.largest[:, t], largest, rtol=1e-4)
        np.testing.assert_allclose(found.growth.states[:, t], x, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(whole["rollout"].jacobian, phi, rtol=1e-3, atol=1e-5)


def test_the_closed_loop_is_the_model_in_probabilities(agent, states):
    @jax.jit
    def both(latents):
        rssm = agent.model.rssm
        h = rssm.recurrent(latents, agent.policy(latents.features).mode())
        probs = rssm.dist(rssm.prior_logits(h)).probs
        step = jax.vmap(lambda x: closed_loop(agent, x))
        return step(latents.features), State(h, probs).features

    np.testing.assert_allclose(*both(states[0]), atol=1e-6)


@pytest.mark.parametrize("name", MAPS)
def test_derivatives_are_those_of_the_maps(whole, name):
    """A straight-through derivative would be that of another function."""
    jacobian, direction, slope = whole[name]
    expected = np.einsum("noi,ni->no", jacobian, direction)
    error = np.linalg.norm(slope - expected, axis=1)
    assert np.all(error < 0.01 * np.linalg.norm(expected, axis=1))


def test_the_summary_is_over_states(found):
    summary = summarize(found)
    for name in MAPS:
        norms, spectral = found.spectral[name].norm, summary.maps[name].spectral
        np.testing.assert_allclose(spectral.median, np.median(norms), rtol=1e-6)
        np.testing.assert_allclose(spectral.upper, np.quantile(norms, 0.9), rtol=1e-6)
        np.testing.assert_allclose(spectral.largest, np.max(norms), rtol=1e-6)
        assert summary.maps[name].converged == 1
        square, error = found.frobenius[name]
        frobenius = summary.maps[name].frobenius
        np.testing.assert_allclose(frobenius.square, np.mean(square), rtol=1e-6)
        expected = np.sqrt(np.sum(np.square(error))) / N
        np.testing.assert_allclose(frobenius.standard_error, expected, rtol=1e-6)
    for growth in (summary.average_growth, summary.largest_growth):
        assert growth.median.shape == growth.largest.shape == (OPTIONS.horizon,)
    assert summary.rows["prior"].largest == np.max(found.rows["prior"])
    assert 0 < summary.curvature.mean < summary.curvature.largest <= 2
    assert summary.curvature.moving == 1
    # Of x_1, x_2, x_3, by the definition.
    first, last = np.moveaxis(np.diff(found.growth.states, axis=1), 1, 0)
    cosine = np.sum(first * last, axis=1)
    cosine /= np.linalg.norm(first, axis=1) * np.linalg.norm(last, axis=1)
    np.testing.assert_allclose(summary.curvature.mean, np.mean(1 - cosine), rtol=1e-4)


def test_agent_norms_measures_the_chosen_maps(agent, states):
    options = NormOptions(maps=("reward", "prior"), horizon=4, probes=2)
    shapes = eqx.filter_eval_shape(
        agent_norms, agent, *states, key=jax.random.key(5), options=options
    )
    assert set(shapes.maps) == {"reward", "prior"}
    assert shapes.maps["reward"].spectral.median.shape == ()
    assert shapes.largest_growth.median.shape == (4,)


def test_it_compiles_once_for_all_agents(agent, compiled, found):
    other = compiled.measure(jax.tree.map(lambda x: 1.1 * x, agent))
    assert compiled.traces == 1
    assert np.all(other.spectral["reward"].norm != found.spectral["reward"].norm)


def test_curvature_of_a_line_and_of_a_circle():
    with jax.enable_x64(True):
        time = jnp.arange(9.0)
        line = time[:, None] ** 2 * jnp.array([1.0, -2.0, 0.5])[None]
        found = mean_curvature(line)
        assert found.moving == 1 and found.largest < 1e-15
        angle = 0.3
        turn = jnp.stack([jnp.cos(angle * time), jnp.sin(angle * time)], axis=-1)
        found = mean_curvature(jnp.stack([turn, 5 * turn], axis=1))
        np.testing.assert_allclose(found.mean, 1 - np.cos(angle), rtol=1e-12)
        np.testing.assert_allclose(found.largest, found.mean, rtol=1e-12)
        np.testing.assert_allclose(found.ratio, 2 * np.sin(angle / 2), rtol=1e-12)


def test_curvature_leaves_out_what_does_not_move():
    """Directions of rounding errors are no directions."""
    noise = 1 + 1e-6 * jax.random.normal(jax.random.key(0), (20, 4))
    rest = mean_curvature(noise)
    assert rest.moving == 0
    assert all(np.isnan([rest.mean, rest.largest, rest.ratio]))
    ahead = 1 + jnp.arange(4.0)[:, None] * jnp.ones((1, 4))
    found = mean_curvature(jnp.concatenate([ahead, noise + 3]))
    # Of 22 pairs of velocities, the first two are on the line.
    np.testing.assert_allclose(found.moving, 2 / 22, rtol=1e-6)
    assert found.largest < 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"maps": ("prior", "critic")}, r"'critic' is not one of \('posterior', .*"),
        ({"horizon": 2}, "horizon=2: must be at least 3"),
    ],
)
def test_options_refuse(options, message):
    with pytest.raises(ValueError, match=message):
        NormOptions(**options)
