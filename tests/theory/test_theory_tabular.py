"""Finite-difference smoothing in tabular worlds, and its continuum limit."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from benchmarks.theory.tabular import study as study_module
from core.theory import tabular as tb
from core.theory import tabular_limit as limit

SEEDS = 4
DISCOUNT = 0.95


def random_laws(rng, states, actions):
    return rng.dirichlet(np.ones(states), (states, actions))


def test_finite_difference_is_equation_1():
    rng = np.random.default_rng(0)
    points, laws, radius = rng.random((7, 3)), random_laws(rng, 7, 2), 0.6
    total, pairs = 0.0, 0
    for s, k in itertools.permutations(range(7), 2):
        distance = np.linalg.norm(points[k] - points[s])
        if distance <= radius:
            pairs += 1
            total += np.sum(((laws[k] - laws[s]) / distance) ** 2)
    assert 4 < pairs < 38
    laplacian = tb.graph_laplacian(points, radius=radius)
    np.testing.assert_allclose(tb.finite_difference(laws, laplacian), total)


def test_lattice_has_four_neighbours():
    laplacian = tb.lattice_laplacian(8)
    degree = np.sum(laplacian < 0, axis=1)
    assert np.bincount(degree).tolist() == [0, 0, 4, 24, 36]
    np.testing.assert_allclose(laplacian[laplacian < 0], -49.0)
    np.testing.assert_allclose(laplacian.sum(axis=1), 0, atol=1e-12)


@pytest.mark.parametrize("world", [tb.push_world(), tb.swirl_world()])
def test_worlds(world):
    np.testing.assert_allclose(world.transition.sum(-1), 1)
    assert world.transition.shape == (64, 2, 64)
    # The two actions are two, and the arrival is near the start.
    assert tb.total_variation(world.transition[:, :1], world.transition[:, 1:]) > 0.2
    arrival = world.transition @ world.embedding
    steps = np.linalg.norm(arrival - world.embedding[:, None], axis=-1)
    assert 0.03 < steps.mean() < 0.3


def test_counts_follow_the_laws():
    world = tb.push_world()
    counts = tb.sample_counts(world.transition, 400_000, rng=np.random.default_rng(0))
    assert counts.sum() == 400_000
    wanted = world.transition * 400_000 / 128
    likely = wanted > 20
    deviations = (counts[likely] - wanted[likely]) / wanted[likely] ** 0.5
    assert abs(deviations.mean()) < 0.15
    assert 0.9 < deviations.std() < 1.1


def test_maximum_likelihood_is_uniform_where_nothing_was_seen():
    counts = np.zeros((3, 1, 3))
    counts[0, 0] = [1.0, 3.0, 0.0]
    wanted = [[0.25, 0.75, 0.0], [1 / 3] * 3, [1 / 3] * 3]
    np.testing.assert_allclose(tb.maximum_likelihood(counts)[:, 0], wanted)


@pytest.mark.parametrize("parametrization", ["squares", "softmax"])
def test_without_smoothing_it_is_maximum_likelihood(parametrization):
    world = tb.push_world(4, width=0.3)
    counts = tb.sample_counts(world.transition, 500, rng=np.random.default_rng(0))
    found = tb.fit(
        counts,
        tb.lattice_laplacian(4),
        strength=0.0,
        parametrization=parametrization,
        tolerance=1e-4,
    )
    wanted = tb.maximum_likelihood(counts)
    assert tb.total_variation(found.transition, wanted) < 1e-3


def test_strong_smoothing_pools_all_states():
    world = tb.push_world(4, width=0.3)
    counts = tb.sample_counts(world.transition, 500, rng=np.random.default_rng(0))
    found = tb.fit(counts, tb.lattice_laplacian(4), strength=1e3)
    pooled = counts.sum(axis=0) / counts.sum(axis=(0, 2))[:, None]
    wanted = np.broadcast_to(pooled, counts.shape)
    assert found.gap < 0.1
    assert tb.total_variation(found.transition, wanted) < 0.015
    plain = tb.maximum_likelihood(counts)
    assert tb.total_variation(plain, wanted) > 0.3


def test_certificate_bounds_the_distance_from_the_minimum():
    """Whatever is tried, nothing is lower than objective − gap; squares get close."""
    world, laplacian = tb.push_world(), tb.lattice_laplacian(8)
    counts = tb.sample_counts(world.transition, 1024, rng=np.random.default_rng(0))
    rough = tb.fit(counts, laplacian, tolerance=0.1)
    fine = tb.fit(counts, laplacian)
    softmax = tb.fit(counts, laplacian, parametrization="softmax", max_iterations=400)
    assert rough.gap > fine.gap > 0
    assert rough.objective - rough.gap <= fine.objective < rough.objective
    assert softmax.objective - softmax.gap <= fine.objective
    assert fine.gap < 1e-4 * fine.objective
    # Why squares are the default: logits creep, and move the result.
    assert softmax.iterations > 3 * fine.iterations
    assert softmax.objective > fine.objective + 1.0
    truth = world.transition
    assert (
        tb.total_variation(softmax.transition, truth)
        > tb.total_variation(fine.transition, truth) + 0.005
    )


def test_parametrizations_agree_where_both_converge():
    world, laplacian = tb.push_world(), tb.lattice_laplacian(8)
    counts = tb.sample_counts(world.transition, 4096, rng=np.random.default_rng(0))
    one = tb.fit(counts, laplacian)
    two = tb.fit(counts, laplacian, parametrization="softmax")
    assert tb.total_variation(one.transition, two.transition) < 2e-3
    np.testing.assert_allclose(one.objective, two.objective, rtol=2e-5)


def value_error(world, model):
    policy = tb.optimal_policy(world.transition, world.reward, discount=DISCOUNT)
    values = [
        tb.policy_value(laws, world.reward, policy, discount=DISCOUNT)
        for laws in (model, world.transition)
    ]
    return np.sqrt(np.mean((values[0] - values[1]) ** 2))


def compare(world, number):
    """Means over seeds: (total variation, value error) of each estimator."""
    rows = []
    near = tb.lattice_laplacian(8)
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        counts = tb.sample_counts(world.transition, number, rng=rng)
        shuffled = tb.shuffled_embedding(world, rng=rng)
        far = tb.graph_laplacian(shuffled.embedding, radius=1.01 / 7)
        models = [
            tb.maximum_likelihood(counts),
            tb.fit(counts, near).transition,
            tb.fit(counts, far).transition,
        ]
        rows.append(
            [
                (tb.total_variation(m, world.transition), value_error(world, m))
                for m in models
            ]
        )
    return np.mean(rows, axis=0)


@pytest.mark.parametrize("name", ["push", "swirl"])
@pytest.mark.parametrize(("number", "ratio"), [(256, 0.7), (1024, 0.85)])
def test_smoothing_helps_with_the_right_neighbours_only(name, number, ratio):
    world = {"push": tb.push_world, "swirl": tb.swirl_world}[name]()
    plain, smoothed, control = compare(world, number)
    assert smoothed[0] <= ratio * plain[0]
    assert control[0] > 1.3 * smoothed[0]
    assert control[1] > 1.3 * smoothed[1]
    assert control[1] > plain[1]
    if number == 1024:
        assert control[0] > plain[0]


@pytest.mark.long
def test_likelihood_chooses_for_the_laws_and_not_for_the_value():
    """In swirl, 4096 transitions: closer laws, and values that are further off."""
    world, laplacian = tb.swirl_world(), tb.lattice_laplacian(8)
    strengths, rows = [0.03, 0.1, 0.3, 1.0, 3.0], []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        train = tb.sample_counts(world.transition, 3277, rng=rng)
        check = tb.sample_counts(world.transition, 819, rng=rng)
        fits = [tb.fit(train, laplacian, strength=x).transition for x in strengths]
        surprise = [tb.held_out_surprise(m, check, unimix=0.01) for m in fits]
        for model in (tb.maximum_likelihood(train), fits[int(np.argmin(surprise))]):
            error = value_error(world, model)
            rows.append((tb.total_variation(model, world.transition), error))
    plain, chosen = np.mean(np.reshape(rows, (SEEDS, 2, 2)), axis=0)
    assert chosen[0] < 0.95 * plain[0]
    assert chosen[1] > 2 * plain[1]


def test_held_out_surprise():
    laws, counts = np.array([[[1.0, 0.0]], [[0.5, 0.5]]]), np.zeros((2, 1, 2))
    counts[0, 0, 0] = counts[1, 0, 0] = 1.0
    found = tb.held_out_surprise(laws, counts, unimix=0.0)
    np.testing.assert_allclose(found, np.log(2) / 2)
    counts[0, 0, 1] = 1.0
    assert tb.held_out_surprise(laws, counts, unimix=0.0) == np.inf
    mixed = tb.held_out_surprise(laws, counts, unimix=0.1)
    np.testing.assert_allclose(mixed, -np.log(0.95 * 0.5 * 0.05) / 3)


def test_shuffling_moves_the_points_and_nothing_else():
    world = tb.push_world()
    shuffled = tb.shuffled_embedding(world, rng=np.random.default_rng(0))
    assert not np.array_equal(shuffled.embedding, world.embedding)
    order = lambda points: sorted(map(tuple, points))
    assert order(shuffled.embedding) == order(world.embedding)
    np.testing.assert_array_equal(shuffled.transition, world.transition)
    np.testing.assert_array_equal(shuffled.reward, world.reward)


def test_policy_iteration_against_every_policy():
    rng = np.random.default_rng(0)
    laws, reward = random_laws(rng, 4, 3), rng.normal(size=4)
    values = [
        tb.policy_value(laws, reward, np.eye(3)[list(actions)], discount=0.9)
        for actions in itertools.product(range(3), repeat=4)
    ]
    best = tb.optimal_policy(laws, reward, discount=0.9)
    found = tb.policy_value(laws, reward, best, discount=0.9)
    np.testing.assert_allclose(found, np.max(values, axis=0), atol=1e-9)
    # By its definition: reward now, then the discounted mean over arrivals.
    step = np.einsum("sa,sat->st", best, laws)
    np.testing.assert_allclose(found, reward + 0.9 * step @ found, atol=1e-9)


@pytest.fixture(scope="module")
def network():
    with jax.enable_x64(True):
        one, two = jax.random.split(jax.random.key(0))
        first, last = jax.random.normal(one, (3, 8)), jax.random.normal(two, (8, 6))
        fn = lambda x: jax.nn.softmax(jnp.tanh(x @ first) @ last)
        yield fn, jnp.array([0.3, -0.2, 0.5])


def test_equation_4_holds_for_axes_and_for_the_sphere(network):
    fn, x = network
    exact = limit.jacobian_energy(fn, x)
    axes = limit.axis_directions(3, sides="one")
    np.testing.assert_allclose(limit.directional_energy(fn, x, axes), exact, rtol=1e-12)
    sphere = limit.sphere_directions(jax.random.key(1), count=100_000, dimensions=3)
    np.testing.assert_allclose(jnp.linalg.norm(sphere, axis=1), 1, rtol=1e-6)
    # At most √(4/5) of it is the spread of one direction: 0.3 % for their mean.
    ratio = limit.directional_energy(fn, x, sphere) / exact
    assert abs(ratio - 1) < 0.012
    # One direction alone is not isotropic.
    assert abs(limit.directional_energy(fn, x, axes[:1]) / exact - 1) > 0.1


@pytest.mark.parametrize(("sides", "slope"), [("one", 1.0), ("both", 2.0)])
def test_order_of_the_limit(network, sides, slope):
    fn, x = network
    exact = float(limit.jacobian_energy(fn, x))
    steps = np.geomspace(0.03, 0.001, 5)
    axes = limit.axis_directions(3, sides=sides)
    energies = [float(limit.difference_energy(fn, x, axes, h)) for h in steps]
    errors = np.abs(np.array(energies) - exact)
    assert abs(limit.log_slope(steps, errors) - slope) < 0.03
    assert errors[-1] < errors[0] / 20


def test_table_norms_shrink_with_the_cell():
    energies = [limit.lattice_energy(side) for side in (8, 16, 32)]
    for coarse, fine in itertools.pairwise(energies):
        np.testing.assert_allclose(coarse.per_state / fine.per_state, 4, rtol=0.02)
        # As printed, the sum over states makes up for it, up to the boundary.
        np.testing.assert_allclose(coarse.total / fine.total, 1, rtol=0.1)
    for energy in energies:
        ratio = energy.per_state_density / energy.continuum
        np.testing.assert_allclose(ratio, 1, rtol=0.01)


def test_errors():
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    with pytest.raises(ValueError, match="two states lie at one point"):
        tb.graph_laplacian(points, radius=1.0)
    with pytest.raises(ValueError, match=r"radius=0\.5: .* 1 apart"):
        tb.graph_laplacian(points[:2], radius=0.5)
    with pytest.raises(ValueError, match="strength=-1"):
        tb.fit(np.ones((4, 1, 4)), tb.lattice_laplacian(2), strength=-1.0)


@pytest.mark.slow
def test_quick_study():
    fractions = []
    study = study_module.run(quick=True, progress=fractions.append)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    json.dumps(study.entries, allow_nan=False)
    study.draw(Figure())
    assert "--quick: a quick check, not a measurement" in study.tables
    for case in study.entries["cases"]:
        for scores in case["scores"].values():
            assert len(scores) == study.entries["seeds"]
