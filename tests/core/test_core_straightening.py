"""The temporal-straightening loss, against Definition 1 and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from core.rssm import RSSM, Observed, State
from core.smoothness.agent import mean_curvature
from core.world_model import straightening_loss

TIME, BATCH, DETER, K, C = 7, 3, 2, 2, 3


@pytest.fixture
def rssm(getkey):
    return RSSM(
        3, 1, key=getkey(), deter=DETER, hidden=4, categoricals=K, classes=C, blocks=1
    )


def observed(deter, logits=None) -> Observed:
    """Of these h and posterior logits; by default the posterior does not change."""
    deter = jnp.asarray(deter)
    axes = deter.shape[:-1]
    logits = jnp.zeros((*axes, K, C)) if logits is None else logits
    # Samples are not what is straightened.
    drawn = jnp.full((*axes, K, C), jnp.nan)
    return Observed(State(deter, drawn), logits, jnp.zeros((*axes, 4)))


def random(getkey) -> tuple[jax.Array, jax.Array]:
    deter = jax.random.normal(getkey(), (TIME, BATCH, DETER))
    return deter, jax.random.normal(getkey(), (TIME, BATCH, K, C))


def starts(*indices: tuple[int, int], time=TIME, batch=BATCH):
    is_first = np.zeros((time, batch), bool)
    for index in indices:
        is_first[index] = True
    return jnp.asarray(is_first)


def definition(rssm, seen: Observed, is_first) -> float:
    """Definition 1 for each pair of steps, in float64."""
    probs = np.asarray(rssm.dist(seen.posterior).probs, np.float64)
    x = np.concatenate(
        [np.asarray(seen.states.deter, np.float64), probs.reshape(TIME, BATCH, -1)], -1
    )
    found = []
    for t in range(TIME - 2):
        for b in range(BATCH):
            if is_first[t + 1, b] or is_first[t + 2, b]:
                continue
            v, w = x[t + 1, b] - x[t, b], x[t + 2, b] - x[t + 1, b]
            found.append(1 - v @ w / np.sqrt((v @ v) * (w @ w)))
    return float(np.mean(found))


def test_right_angles_and_a_turn_back(rssm):
    paths = [[[0, 0], [1, 0], [1, 1], [1, 3]], [[0, 0], [2, 0], [0, 0], [0, 5]]]
    seen = observed(jnp.array(paths, float).swapaxes(0, 1))
    nowhere = starts(time=4, batch=2)
    # 1 − cos: 1 and 0 of the first path, 2 and 1 of the second.
    assert straightening_loss(rssm, seen, nowhere) == pytest.approx(1.0, abs=1e-6)
    # Both pairs of the second path have a step into its third state.
    cut = starts((2, 1), time=4, batch=2)
    assert straightening_loss(rssm, seen, cut) == pytest.approx(0.5, abs=1e-6)
    # The first state of a sequence may be a start: no step leads into it.
    cut = starts((0, 0), (0, 1), time=4, batch=2)
    assert straightening_loss(rssm, seen, cut) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    "firsts", [(), ((0, 0), (3, 1)), ((1, 0), (2, 1), (6, 2), (5, 2))]
)
def test_random_paths_as_in_the_definition(rssm, getkey, firsts):
    seen, is_first = observed(*random(getkey)), starts(*firsts)
    found = straightening_loss(rssm, seen, is_first)
    wanted = definition(rssm, seen, np.asarray(is_first))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    if not firsts:
        probs = rssm.dist(seen.posterior).probs
        features = State(seen.states.deter, probs).features
        np.testing.assert_allclose(found, mean_curvature(features).mean, rtol=1e-6)


def test_nothing_crosses_an_episodes_start(rssm, getkey):
    """However the second episode lies to the first, the loss stays the same."""
    deter, logits = random(getkey)
    is_first = jnp.zeros((TIME, BATCH), bool).at[3].set(True)
    plain = straightening_loss(rssm, observed(deter, logits), is_first)
    moved = observed(deter.at[3:].add(jnp.array([5.0, -2.5])), logits)
    found = straightening_loss(rssm, moved, is_first)
    np.testing.assert_allclose(found, plain, rtol=1e-5)
    crossing = straightening_loss(rssm, moved, starts())
    assert abs(crossing - plain) > 0.01


def test_a_straight_line_has_none(rssm):
    """Whatever the length of its steps."""
    times = np.array([0.0, 0.1, 0.5, 0.6, 1.0, 3.0, 3.5])[:, None, None]
    line = np.array([1.0, -2.0]) + times * np.array([0.3, 0.7])
    seen = observed(jnp.broadcast_to(jnp.float32(line), (TIME, BATCH, DETER)))
    assert 0 <= straightening_loss(rssm, seen, starts()) < 1e-8


def test_the_gradient_is_that_of_the_loss(rssm, getkey):
    is_first = starts((3, 1))
    loss = lambda *latents: straightening_loss(rssm, observed(*latents), is_first)
    check_grads(loss, random(getkey), order=1, modes=["rev"], rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("resting", ["always", "at times", "almost"])
def test_steps_at_rest_have_no_loss_and_no_gradient(rssm, getkey, resting):
    deter, logits = random(getkey)
    if resting != "at times":
        deter, logits = (jnp.broadcast_to(x[:1], x.shape) for x in (deter, logits))
        if resting == "almost":
            deter = deter * (1 + 1e-6 * jnp.arange(TIME)[:, None, None] ** 2)
    else:
        deter, logits = (x.at[3].set(x[2]) for x in (deter, logits))

    loss = lambda *latents: straightening_loss(rssm, observed(*latents), starts())
    value, gradient = jax.value_and_grad(loss, (0, 1))(deter, logits)
    assert all(jnp.all(jnp.isfinite(x)) for x in gradient)
    if resting == "at times":
        # The step from state 2 to state 3 is left out as if an episode began there.
        wanted = definition(
            rssm, observed(deter, logits), starts((3, 0), (3, 1), (3, 2))
        )
        np.testing.assert_allclose(value, wanted, rtol=1e-5)
        assert all(jnp.any(x) for x in gradient)
    else:
        assert value == 0
        assert not any(jnp.any(x) for x in gradient)


def test_too_short_a_sequence_has_none(rssm):
    seen = observed(jnp.array([[[0.0, 1.0]], [[2.0, 0.0]]]))
    assert straightening_loss(rssm, seen, starts(time=2, batch=1)) == 0


def test_it_is_float32_in_a_bfloat16_network(rssm, getkey):
    deter, logits = random(getkey)
    exact = straightening_loss(rssm, observed(deter, logits), starts())
    half = observed(deter.astype(jnp.bfloat16), logits.astype(jnp.bfloat16))
    found = straightening_loss(rssm, half, starts())
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, exact, rtol=0.02)
