"""The penalty on the RSSM against full Jacobians, its state sampling, its schedule."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.constants import PENALIZED, TARGETS
from core.networks.layers import cast
from core.penalty import (
    PenaltyOptions,
    annealed_coefficient,
    decayed_coefficient,
    dynamics_penalty,
    posterior_jacobian,
    sample_states,
)
from core.rssm import RSSM
from core.transition import Transition

pytestmark = pytest.mark.usefixtures("quick_compiles")

DETER, HIDDEN, ROWS, CLASSES, EMBED, ACTION = 6, 5, 2, 4, 3, 2
TIME, BATCH = 3, 2


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def random_rssm(unimix=0.01):
    """Random parameters everywhere: at the start biases are 0 and norms 1."""
    build = functools.partial(
        RSSM,
        EMBED,
        ACTION,
        deter=DETER,
        hidden=HIDDEN,
        categoricals=ROWS,
        classes=CLASSES,
        blocks=2,
        unimix=unimix,
    )
    rng = np.random.default_rng(0)

    def fill(path, x):
        noise = rng.normal(size=x.shape)
        x = 1 + 0.3 * noise if path[-1].name == "scale" else 0.6 * noise
        return jnp.asarray(x, jnp.float32)

    shapes = eqx.filter_eval_shape(build, key=jax.random.key(0))
    return jax.tree_util.tree_map_with_path(fill, shapes)


@pytest.fixture(scope="module")
def rssm():
    return random_rssm()


@pytest.fixture(scope="module")
def inputs():
    """Embeddings, actions, firsts of a replayed batch."""
    rng = np.random.default_rng(1)
    embeds = jnp.asarray(rng.normal(size=(TIME, BATCH, EMBED)), jnp.float32)
    actions = jnp.asarray(rng.normal(size=(TIME, BATCH, ACTION)), jnp.float32)
    return embeds, actions, jnp.zeros((TIME, BATCH), bool)


@jax.jit
def observe(rssm, inputs):
    _, observed = rssm.observe(rssm.initial(BATCH), *inputs, key=jax.random.key(3))
    return observed


@pytest.fixture(scope="module")
def observed(rssm, inputs):
    return observe(rssm, inputs)


def penalize(rssm, observed, embeds, key, options):
    # What the two heads need of the batch is in `observed`.
    rows = embeds.shape[:-1]
    no = jnp.zeros(rows, bool)
    action = jnp.zeros((*rows, ACTION))
    batch = Transition(embeds, action, jnp.zeros(rows), no, no, no)
    return dynamics_penalty(rssm, observed, embeds, batch, key=key, options=options)


@functools.partial(jax.jit, static_argnums=4)
def penalize_all(rssm, observed, embeds, key, options):
    """The terms of several options, in one program: compiling takes the time here."""
    return [penalize(rssm, observed, embeds, key, option) for option in options]


@jax.jit
def norms_by_definition(rssm, observed, embeds):
    """1/K · ‖J‖_F² of every state, by the full Jacobian of the probability maps."""
    deter = observed.states.deter.reshape(-1, DETER)
    u = jnp.concatenate([deter, embeds.reshape(-1, EMBED)], axis=-1)

    def posterior(u):
        logits = rssm.posterior_logits(u[:DETER], u[DETER:])
        return 0.99 * jax.nn.softmax(logits) + 0.01 / CLASSES

    def prior(deter):
        return 0.99 * jax.nn.softmax(rssm.prior_logits(deter)) + 0.01 / CLASSES

    def norms(fn, x):
        return jnp.sum(jax.vmap(jax.jacrev(fn))(x) ** 2, axis=(1, 2, 3)) / ROWS

    return {"posterior": norms(posterior, u), "prior": norms(prior, deter)}


@functools.partial(jax.jit, static_argnums=2)
def terms_and_gradients(rssm, inputs, terms_of):
    """The terms, and the gradient of their weighted sum in the RSSM and e."""

    def loss(rssm, embeds):
        observed = observe(rssm, (embeds, *inputs[1:]))
        terms = terms_of(rssm, observed, embeds)
        return terms["posterior"] + 2 * terms["prior"], terms

    gradients, terms = jax.grad(loss, argnums=(0, 1), has_aux=True)(rssm, inputs[0])
    return terms, gradients


@pytest.fixture(scope="module")
def definition(rssm, inputs):
    def means(*arguments):
        return jax.tree.map(jnp.mean, norms_by_definition(*arguments))

    return terms_and_gradients(rssm, inputs, means)


def assert_trees_close(got, wanted, tolerance):
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(x, y, atol=tolerance * max(1e-3, np.abs(y).max()))


def test_exact_probes_give_the_squared_norm_of_the_jacobian(rssm, inputs, definition):
    """Through u the gradient also reaches the encoder and the recurrent map."""
    options = PenaltyOptions(target="both", rho=1.0, probe_kind="exact")

    def penalty(rssm, observed, embeds):
        return penalize(rssm, observed, embeds, jax.random.key(0), options)

    terms, gradients = terms_and_gradients(rssm, inputs, penalty)
    wanted_terms, wanted_gradients = definition
    assert terms.keys() == wanted_terms.keys()
    for name, value in wanted_terms.items():
        assert value > 1e-3
        np.testing.assert_allclose(terms[name], value, rtol=1e-4)
    assert_trees_close(gradients, wanted_gradients, 1e-3)
    of_rssm, of_embeds = gradients
    for part in (of_embeds, of_rssm.gates.weight, of_rssm.deter_in.linear.weight):
        assert jnp.any(part != 0)


def test_the_reference_implementation_gives_the_same(
    rssm, observed, inputs, definition
):
    options = PenaltyOptions("reference", target="both", rho=1.0, probe_kind="exact")
    key = jax.random.key(0)
    (terms,) = penalize_all(rssm, observed, inputs[0], key, (options,))
    for name, value in definition[0].items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-4)


def test_all_hadamard_probes_give_the_exact_value(rssm, observed, inputs, definition):
    """Their number is that of the options, in every implementation."""
    every = {"target": "both", "rho": 1.0, "probe_kind": "hadamard"}
    options = tuple(
        PenaltyOptions(implementation, probes=CLASSES - 1, **every)
        for implementation in ("xla", "reference")
    )
    found = penalize_all(rssm, observed, inputs[0], jax.random.key(0), options)
    for terms, (name, value) in itertools.product(found, definition[0].items()):
        np.testing.assert_allclose(terms[name], value, rtol=1e-4)


def test_the_penalty_is_that_of_the_mixed_probabilities(rssm, observed, inputs):
    """q = (1 − unimix)·softmax + unimix/C: in proportion to (1 − unimix)²."""
    options = tuple(
        PenaltyOptions(implementation, target="both", rho=1.0, probe_kind="exact")
        for implementation in ("xla", "reference")
    )

    def found(rssm):
        terms = penalize_all(rssm, observed, inputs[0], jax.random.key(0), options)
        return terms, jax.jit(posterior_jacobian)(rssm, observed, inputs[0])

    plain, mixed = (jax.tree.leaves(found(random_rssm(x))) for x in (0.0, 0.25))
    assert len(plain) == 5
    np.testing.assert_allclose(mixed, 0.75**2 * np.array(plain), rtol=1e-5)


def test_targets_and_normalizations(rssm, observed, inputs):
    """A term is the same alone and with the other; "batch" divides by all states."""
    # 2 of 6 states are drawn: ⌊0.4·6⌋.
    options = (
        PenaltyOptions(target="both", rho=0.4),
        PenaltyOptions(target="posterior", rho=0.4),
        PenaltyOptions(target="prior", rho=0.4),
        PenaltyOptions(target="both", rho=0.4, normalization="batch"),
    )
    both, posterior, prior, batch = penalize_all(
        rssm, observed, inputs[0], jax.random.key(5), options
    )
    assert both.keys() == batch.keys() == {"posterior", "prior"}
    assert posterior.keys() == {"posterior"}
    assert prior.keys() == {"prior"}
    for name, value in (posterior | prior).items():
        np.testing.assert_allclose(value, both[name], rtol=1e-5)
        np.testing.assert_allclose(batch[name], value * 2 / 6, rtol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_is_the_terms_of_its_maps(rssm, observed, inputs, target):
    options = PenaltyOptions(target=target)
    terms = jax.eval_shape(
        lambda key: penalize(rssm, observed, inputs[0], key, options),
        jax.random.key(0),
    )
    assert terms.keys() == set(PENALIZED[target])


def test_the_penalty_is_the_mean_over_a_random_subset(rssm, observed, inputs):
    """Exact probes leave one thing random: which half of the six states was drawn."""
    options = PenaltyOptions(target="both", rho=0.5, probe_kind="exact")
    keys = jax.random.split(jax.random.key(8), 30)
    draw = jax.vmap(lambda key: penalize(rssm, observed, inputs[0], key, options))
    terms = jax.jit(draw)(keys)
    norms = norms_by_definition(rssm, observed, inputs[0])
    subsets = list(itertools.combinations(range(TIME * BATCH), 3))
    drawn = {}
    for name, values in terms.items():
        of_states = np.asarray(norms[name])
        means = np.array([of_states[list(subset)].mean() for subset in subsets])
        errors = np.abs(np.asarray(values)[:, None] / means - 1)
        assert (errors.min(axis=1) < 1e-4).all()
        drawn[name] = errors.argmin(axis=1).tolist()
    # Both targets see the same states. 30 draws of 20 subsets: fewer than 9 different
    # ones is next to impossible.
    assert drawn["posterior"] == drawn["prior"]
    assert len(set(drawn["prior"])) >= 9


def test_rademacher_probes_estimate_the_exact_value(rssm, observed, inputs, definition):
    """The mean over many keys within three standard errors."""
    options = PenaltyOptions(target="both", rho=1.0)
    keys = jax.random.split(jax.random.key(6), 400)
    draw = jax.vmap(lambda key: penalize(rssm, observed, inputs[0], key, options))
    for name, values in jax.jit(draw)(keys).items():
        values = np.asarray(values)
        error = values.std() / len(keys) ** 0.5
        assert abs(values.mean() - definition[0][name]) < 3 * error
        assert error < 0.1 * definition[0][name]


def test_bfloat16(rssm, observed, inputs):
    """The networks' compute type on an accelerator: near float32 on the same states."""
    wanted = norms_by_definition(rssm, observed, inputs[0])
    half = cast((rssm, observed, inputs[0]), jnp.bfloat16)
    options = PenaltyOptions(target="both", rho=1.0, probe_kind="exact")
    (terms,) = penalize_all(*half, jax.random.key(0), (options,))
    for name, norms in wanted.items():
        assert terms[name].dtype == jnp.float32
        np.testing.assert_allclose(terms[name], norms.mean(), rtol=0.05)


# Sampling of states


@pytest.mark.parametrize(
    ("total", "rho", "count"),
    [(10, 0.3, 3), (10, 0.39, 3), (1024, 0.5, 512), (7, 0.01, 1), (1, 0.5, 1)],
)
def test_sampled_states_are_distinct(total, rho, count, getkey):
    index = np.asarray(sample_states(getkey(), total, rho))
    assert index.shape == (count,)
    assert len(set(index.tolist())) == count
    assert index.min() >= 0
    assert index.max() < total


def test_all_states_come_in_order(getkey):
    np.testing.assert_array_equal(sample_states(getkey(), 6, 1.0), np.arange(6))


def test_every_state_is_sampled_equally_often():
    keys = jax.random.split(jax.random.key(7), 3000)
    index = jax.jit(jax.vmap(lambda key: sample_states(key, 8, 0.25)))(keys)
    counts = np.bincount(np.asarray(index).ravel(), minlength=8)
    allowed = 3 * np.sqrt(3000 * 0.25 * 0.75)
    assert (np.abs(counts - 3000 * 0.25) < allowed).all()


# Algorithm 2


@pytest.mark.parametrize(
    ("updates", "options", "wanted"),
    [
        (0, {}, 0.5),
        (1000, {}, 0.5 / 2**0.5),
        (3000, {}, 0.25),
        (10**9, {}, 0.001),  # 0.0005 without the floor
        (3, {"initial": 0.8, "minimum": 0.0, "decay_scale": 1.0}, 0.4),
        (15, {"initial": 0.8, "minimum": 0.3, "decay_scale": 1.0}, 0.3),
        (1000, {"decay": "exponential"}, 0.5 * 2.718281828**-1),
        (250, {"decay": "linear"}, 0.375),
        (5000, {"decay": "linear", "minimum": 0.0}, 0.0),
        (0, {"decay": "cosine"}, 0.5),
        (500, {"decay": "cosine"}, 0.25),
        (5000, {"decay": "cosine"}, 0.001),
        (10**6, {"decay": "none"}, 0.5),
        (99, {"start": 100}, 0.0),
        (100, {"start": 100}, 0.5),
        (3100, {"start": 100}, 0.25),
        (1100, {"start": 100, "decay": "linear", "minimum": 0.2}, 0.2),
    ],
)
def test_coefficient_by_hand(updates, options, wanted):
    coefficient = decayed_coefficient(jnp.asarray(updates), **options)
    np.testing.assert_allclose(coefficient, wanted, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    "wrong", [{"target": "bla"}, {"normalization": "x"}, {"rho": 0.0}]
)
def test_options_that_are_none(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}=.* must be"):
        PenaltyOptions(**wrong)


@pytest.mark.parametrize(
    ("coefficient", "error", "wanted"),
    [(0.5, 3.0, 0.5), (0.5, 1.0, 0.25), (0.5, 0.0, 0.01), (0.0, 1.0, 0.0)]
    + [(0.005, 0.0, 0.005)],
)
def test_annealed_coefficient(coefficient, error, wanted):
    """In proportion to the error below the reference; not below the minimum."""
    given = jnp.asarray(coefficient), jnp.asarray(error)
    anneal = lambda c, e: annealed_coefficient(c, e, reference=2.0, minimum=0.01)
    assert float(anneal(*given)) == pytest.approx(wanted)
    # Else the model would be trained to err less where that weakens the penalty.
    assert float(jax.grad(anneal, argnums=1)(*given)) == 0.0
