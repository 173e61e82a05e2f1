"""The small-error expansion: closed forms on trees, slopes, printed against true."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.theory.sde.systems import SYSTEMS
from core.theory.perturbation import expansion_terms
from core.theory.perturbation_printed import (
    CORRECTED,
    PRINTED,
    Corrections,
    printed_terms,
    without_half,
)
from core.theory.sde import (
    EulerMaruyama,
    brownian,
    gaussian_given_inputs,
    rademacher_tree,
)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


N, DT, MU, SIGMA = 8, 0.1, 0.3, 0.5


def gbm() -> EulerMaruyama:
    """dx = (μ + ε) x dt + (σ + ε) x dB."""
    return EulerMaruyama(
        lambda x: MU * x,
        lambda x: SIGMA * x[:, None],
        DT,
        lambda x: x,
        lambda x: x[:, None],
    )


def square(x):
    return x[0] ** 2


@pytest.fixture(scope="module")
def gbm_expansion():
    with jax.enable_x64(True):
        return gbm().expand(square, jnp.ones(1), rademacher_tree(N, 1, DT))


def test_all_six_terms_of_gbm_on_the_tree(gbm_expansion):
    def product(a, b, c, d):
        """E x(a, c) x(b, d) for diffusions a, b and drifts c, d on the same noise."""
        return ((1 + c * DT) * (1 + d * DT) + a * b * DT) ** N

    def derivative(*which: int) -> float:
        function = product
        for argument in which:
            function = jax.grad(function, argument)
        return float(function(SIGMA, SIGMA, MU, MU))

    expected = {
        "p": 2 * derivative(0),
        "p_tilde": 2 * derivative(2),
        "q": 2 * derivative(0, 0),
        "s": 2 * derivative(0, 1),
        "q_tilde": 2 * (derivative(2, 2) + 2 * derivative(0, 2)),
        "s_tilde": 2 * (derivative(2, 3) + 2 * derivative(0, 3)),
    }
    for name, term in gbm_expansion.terms().items():
        assert term.mean == pytest.approx(expected[name], rel=1e-10), name


def moment(eps: float) -> float:
    """E (x^ε)² of that system."""
    return ((1 + (MU + eps) * DT) ** 2 + (SIGMA + eps) ** 2 * DT) ** N


def test_change_of_gbm_on_the_tree(gbm_expansion):
    for eps in (-0.3, 0.01, 0.5):
        change = gbm_expansion.change(eps).mean
        assert change == pytest.approx(moment(eps) - moment(0.0), abs=1e-10)
    slope, curve = jax.grad(moment)(0.0), jax.grad(jax.grad(moment))(0.0)
    predicted = gbm_expansion.predict(0.2).mean
    assert predicted == pytest.approx(float(0.2 * slope + 0.02 * curve), abs=1e-10)


def test_validity_radius_of_gbm(gbm_expansion):
    grid = np.geomspace(0.01, 1.0, 20)
    slope, curve = jax.grad(moment)(0.0), jax.grad(jax.grad(moment))(0.0)
    remainder = np.array([moment(e) - moment(0.0) - e * slope for e in grid])
    remainder -= grid**2 * float(curve) / 2
    small = np.abs(remainder) < 0.25 * grid**2 * abs(float(curve)) / 2
    assert small[0]
    assert not small[-1]
    check = gbm_expansion.check(grid.tolist())
    assert check.eps_valid == pytest.approx(grid[small][-1])
    np.testing.assert_allclose(check.remainder, remainder, rtol=1e-6, atol=1e-12)
    # Beyond it, on a grid that begins there, nothing is valid.
    assert gbm_expansion.check(grid[~small].tolist()).eps_valid == 0.0


@pytest.mark.parametrize("name", SYSTEMS)
def test_remainder_falls_with_the_third_power(name):
    system = SYSTEMS[name]
    noise = brownian(jax.random.key(3), paths=64, steps=10, size=system.noises, dt=0.1)
    exact = system.build(0.1).expand(system.loss, jnp.asarray(system.start), noise)
    grid = [1e-3, 2e-3, 4e-3]
    assert exact.check(grid).slopes.min() > 2.9
    if name != "Ornstein–Uhlenbeck":  # linear, so that ∂²x is 0
        slopes = without_half(exact).check(grid).slopes
        np.testing.assert_allclose(slopes, 2.0, atol=0.2)


def test_any_step_function_against_derivatives_of_the_mean_loss():
    """A recurrent map whose noise is a pair of arrays, not of an SDE."""
    rng = np.random.default_rng(0)
    inner, outer = (jnp.asarray(rng.normal(size=(3, 3))) for _ in range(2))
    noise = {
        "gate": jnp.asarray(rng.uniform(size=(2, 3, 3))),
        "shift": jnp.asarray(rng.normal(size=(2, 3))),
    }
    start = jnp.asarray(rng.normal(size=(2, 3)))
    step = lambda x, w: w["gate"] * jnp.tanh(inner @ x + w["shift"]) + 0.5 * x
    drift = lambda x, w: jnp.cos(outer @ x)
    shaken = lambda x, w: w["shift"] * jnp.sin(x)
    loss = lambda x: jnp.log1p(jnp.sum(x**2))

    def mean_loss(eps):
        def advance(x, w):
            return step(x, w) + eps[0] * shaken(x, w) + eps[1] * drift(x, w), None

        ends = jax.vmap(lambda x, rows: jax.lax.scan(advance, x, rows)[0])
        return jnp.mean(jax.vmap(loss)(ends(start, noise)))

    zero = jnp.zeros(2)
    slope = np.asarray(jax.jit(jax.grad(mean_loss))(zero))
    curve = np.asarray(jax.jit(jax.hessian(mean_loss))(zero))
    found = expansion_terms(
        step, loss, start, noise, drift_error=drift, diffusion_error=shaken
    )
    t = {name: term.mean for name, term in found.terms().items()}
    assert t["p"] == pytest.approx(slope[0], rel=1e-10)
    assert t["p_tilde"] == pytest.approx(slope[1], rel=1e-10)
    assert t["q"] + t["s"] == pytest.approx(curve[0, 0], rel=1e-10)
    rest = curve[1, 1] + 2 * curve[0, 1]
    assert t["q_tilde"] + t["s_tilde"] == pytest.approx(rest, rel=1e-10)


def test_standard_errors_cover_the_truth(gbm_expansion):
    truth = gbm_expansion.terms()
    noise = brownian(jax.random.key(1), paths=4000, steps=N, size=1, dt=DT)
    sampled = gbm().expand(square, jnp.ones(1), noise)
    for name, term in sampled.terms().items():
        values = np.asarray(getattr(sampled, name))
        assert term.error == pytest.approx(np.std(values, ddof=1) / np.sqrt(4000))
        # The ± steps of the tree and normal ones share their second moments, which
        # are all that these terms of a linear system and L = x² depend on.
        assert abs(term.mean - truth[name].mean) < 4 * term.error, name
    assert sampled.predict(0.1).error < sampled.change(0.1).error * 2


def test_one_error_alone(gbm_expansion):
    both = gbm_expansion.terms()
    tree = rademacher_tree(N, 1, DT)
    random = gbm()._replace(drift_error=None).expand(square, jnp.ones((2**N, 1)), tree)
    alone = random.terms()
    for name in ("p", "q", "s"):
        assert alone[name].mean == pytest.approx(both[name].mean, rel=1e-12)
    for name in ("p_tilde", "q_tilde", "s_tilde"):
        assert alone[name].mean == 0.0


def test_32_bits_say_that_they_do_not_resolve_the_remainder():
    with jax.enable_x64(False):
        expansion = gbm().expand(square, jnp.ones(1), rademacher_tree(N, 1, DT))
        check = expansion.check([1e-4, 2e-4, 1.0])
    assert check.resolved.tolist() == [False, False, True]
    assert check.slopes.size == 0


def planar(steps: int):
    """A nonlinear system in which every term of the expansion counts."""
    system = SYSTEMS["nonlinear, 2 states"]
    dt = 0.6 / steps
    return system.build(dt), system.loss, jnp.asarray(system.start), dt


@pytest.fixture(scope="module")
def planar_trees():
    """The exact expansion of that system, with 6 and with 12 steps."""
    found = {}
    with jax.enable_x64(True):
        for steps in (6, 12):
            sde, loss, start, dt = planar(steps)
            tree = rademacher_tree(steps, 1, dt)
            found[steps] = (sde, loss, start, tree), sde.expand(loss, start, tree)
    return found


def means(expansion) -> np.ndarray:
    return np.array([term.mean for term in expansion.terms().values()])


def test_printed_forms_with_every_correction_tend_to_the_exact_ones(planar_trees):
    gaps = []
    for arguments, exact in planar_trees.values():
        repaired = printed_terms(*arguments, corrections=CORRECTED)
        gaps.append(np.abs(means(repaired) - means(exact)))
    # Itô sums are O(dt) from the exact discrete ones: half the step, half the gap.
    assert np.all(gaps[1] < 0.65 * gaps[0])
    assert gaps[0].max() < 0.04
    assert gaps[1].max() < 0.02


@pytest.mark.parametrize("name", Corrections._fields)
def test_each_correction_is_needed(planar_trees, name):
    """Each of them is missed by more than what the finite step leaves, see above."""
    arguments, exact = planar_trees[6]
    without = CORRECTED._replace(**{name: False})
    paper = printed_terms(*arguments, corrections=without)
    gaps = [*(means(paper) - means(exact)), np.mean(paper.second - exact.second)]
    assert np.abs(gaps).max() > 0.05


def test_printed_prediction_is_off_at_first_order(planar_trees):
    arguments, _ = planar_trees[6]
    paper = printed_terms(*arguments, corrections=PRINTED)
    np.testing.assert_allclose(paper.check([1e-4, 2e-4]).slopes, 1.0, atol=0.05)


def test_path_conditioned_on_inputs_is_gaussian_with_these_moments():
    """Proposition B.1, its first two moments over the whole tree."""
    rng = np.random.default_rng(0)
    drift, diffusion = rng.normal(size=(4, 2)), rng.normal(size=(4, 2, 2))
    mean, covariance = gaussian_given_inputs(
        jnp.asarray(drift), jnp.asarray(diffusion), DT
    )
    tree = np.asarray(rademacher_tree(4, 2, DT))
    ends = DT * drift.sum(0) + np.einsum("tnm,ptm->pn", diffusion, tree)
    np.testing.assert_allclose(ends.mean(0), mean, atol=1e-12)
    np.testing.assert_allclose(np.cov(ends.T, bias=True), covariance, atol=1e-12)


def test_the_tree_has_every_path_once():
    tree = np.asarray(rademacher_tree(3, 2, 0.25))
    assert tree.shape == (64, 3, 2)
    expected = set(itertools.product((-0.5, 0.5), repeat=6))
    assert {tuple(path.ravel()) for path in tree} == expected


def test_errors_name_the_argument():
    step = lambda x, w: x
    with pytest.raises(
        ValueError, match="drift_error and diffusion_error are both None"
    ):
        expansion_terms(step, square, jnp.ones(1), jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"2\^40 paths, give 1 to 22"):
        rademacher_tree(20, 2, 0.1)


@pytest.mark.parametrize("grid", [[0.1], [0.2, 0.1], [0.0, 0.1]])
def test_grid_must_ascend(gbm_expansion, grid):
    with pytest.raises(ValueError, match="eps_grid is"):
        gbm_expansion.check(grid)
